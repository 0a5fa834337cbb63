"""Norms in other operations, where no operator does, or where ONNX Runtime has no kernel for the one that does.

An RMSNorm is ``Pow, ReduceMean, Add, Sqrt, Div, Mul`` in this order, which ONNX Runtime recognises and runs as one
kernel; with a Mul for the Pow, or a Reciprocal for the Div, it does not. A GroupNorm is an InstanceNormalization
between two reshapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Final

import numpy as np
import onnx_ir as ir

from normfold.backends.onnx.reading.constants import ExactTensor
from normfold.backends.onnx.write.commit import Writer, sweep
from normfold.core.algebra import Affine
from normfold.core.algebra.affine import Array
from normfold.core.laws.collapse import norm_constants
from normfold.core.views import AffineOp, DynamicTanh, Norm, Spelling

AXES_AS_INPUT: Final = 18
"""The opset from which ReduceMean reads its axes."""
SPELLED: Final = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE})
"""Types in which squares and their mean are computed as well as an operator would; half precision overflows."""
LAYER_OPSET: Final = 17
"""The opset that brought LayerNormalization."""

Dims = Sequence[int | None]


def spell_rms(writer: Writer, view: Norm, dtype: ir.DataType) -> None:
    """Let elementary operations of ``dtype`` make what the node of ``view`` makes, as ``view``, an RMSNorm, says."""
    node, x, axes = view.node, view.inputs[0], view.axes
    if not isinstance(node, ir.Node) or not isinstance(x, ir.Value) or axes is None or view.epsilon is None:
        raise TypeError(f"not a norm that can be written out: {view.op}")
    spell = _Speller(writer, node, dtype)
    spell.end(x, [("Div", spell.deviation(x, axes, view.epsilon)), *spell.tail(view.tail)])


def spell_layer(writer: Writer, view: Norm, dtype: ir.DataType) -> None:
    """Let elementary operations of ``dtype`` make what ``view``, a LayerNorm over any axes, says."""
    node, x, axes = view.node, view.inputs[0], view.axes
    if not isinstance(node, ir.Node) or not isinstance(x, ir.Value) or axes is None or view.epsilon is None:
        raise TypeError(f"not a norm that can be written out: {view.op}")
    spell = _Speller(writer, node, dtype)
    centred = spell.node("Sub", x, spell.mean(x, axes))
    spell.end(centred, [("Div", spell.deviation(centred, axes, view.epsilon)), *spell.tail(view.tail)])


def trailing(view: Norm) -> bool:
    """Whether ``view`` normalises the last axes, as the operators do."""
    return view.axes is not None and view.axes == tuple(range(-len(view.axes), 0))


def spell_tanh(writer: Writer, view: DynamicTanh, dtype: ir.DataType) -> None:
    """Let elementary operations of ``dtype`` make what ``view`` says."""
    node, x = view.node, view.inputs[0]
    if not isinstance(node, ir.Node) or not isinstance(x, ir.Value):
        raise TypeError("not a node")
    spell = _Speller(writer, node, dtype)
    squashed = spell.node("Tanh", spell.node("Mul", x, spell.constant("alpha", np.asarray(view.alpha))))
    spell.end(squashed, spell.tail(view.tail) or [("Identity",)])


def spell_affine(writer: Writer, view: AffineOp, dtype: ir.DataType) -> None:
    """Let operations of ``dtype`` scale and shift as ``view`` says: a BatchNormalization where it has statistics."""
    node, x = view.node, view.inputs[0]
    if not isinstance(node, ir.Node) or not isinstance(x, ir.Value):
        raise TypeError("not a node")
    spell, stored = _Speller(writer, node, dtype), view.statistics
    if stored is None:
        spell.end(x, spell.tail(view.affine) or [("Identity",)])
        return
    epsilon = float(np.float32(stored.epsilon))
    mean, variance = stored.mean.reshape(-1), stored.variance.reshape(-1)
    scale, bias = norm_constants(view.affine, mean, variance, epsilon)
    arrays = {"scale": scale, "bias": bias, "mean": mean, "var": variance}
    constants = [spell.constant(role, values.reshape(-1)) for role, values in arrays.items()]
    spell.become("BatchNormalization", x, *constants)
    node.attributes["epsilon"] = ir.AttrFloat32("epsilon", epsilon)


def spell_by(writer: Writer, view: Norm, by: Spelling, dtype: ir.DataType, shape: Dims) -> None:
    """Let the operation of a norm of the kind ``by`` make what the node of ``view`` makes, in ``dtype``.

    ``shape`` is that of its input, as far as it is known; `rows` says what of it has to be.
    """
    node, x = view.node, view.inputs[0]
    if not isinstance(node, ir.Node) or not isinstance(x, ir.Value) or view.epsilon is None:
        raise TypeError(f"not a norm that can be written out: {view.op}")
    spell = _Speller(writer, node, dtype)
    between, size = rows(view, shape)
    flat = spell.node("Reshape", x, spell.sizes("rows", between))
    if view.kind == "rms":
        flat = spell.node("Concat", flat, spell.node("Neg", flat), attributes=(ir.AttrInt64("axis", -1),))
    normed = spell.normed(flat, by, between[1], view.epsilon)
    if view.kind == "rms":
        bounds = (spell.sizes(role, (number,)) for role, number in (("start", 0), ("end", size or 0), ("axis", -1)))
        normed = spell.node("Slice", normed, *bounds)
    spell.end(normed, [("Reshape", spell.back(x, shape, grouped=view.groups is not None)), *spell.tail(view.tail)])


def rows(view: Norm, shape: Dims) -> tuple[tuple[int, int, int], int | None]:
    """The shape ``[a, b, -1]`` in which the norm of ``view`` is over the last axis, and that axis's size if known.

    ``b`` is -1 and the size known where it is over the last axes of its input.
    """
    if view.groups is not None:
        return (0, view.groups.count, -1), None
    trailing = [size for size in shape[len(shape) - len(view.axes or ()) :] if size is not None]
    leading = [size for size in shape[: len(shape) - len(view.axes or ())] if size is not None]
    known = len(leading) == len(shape) - len(view.axes or ())
    return (1, prod(leading) if known else -1, prod(trailing)), prod(trailing)


@dataclass(frozen=True)
class _Speller:
    """Puts nodes before ``before``, named after it."""

    writer: Writer
    before: ir.Node
    dtype: ir.DataType

    @property
    def graph(self) -> ir.Graph:
        if not isinstance(self.before.graph, ir.Graph):
            raise TypeError("the norm stands in no graph")
        return self.before.graph

    def constant(self, role: str, values: Array) -> ir.Value:
        return self._held(role, ExactTensor(values, self.dtype))

    def _held(self, role: str, tensor: ir.TensorProtocol) -> ir.Value:
        return self.writer.constant(self.before, tensor, self.writer.fresh(f"{self._stem}_{role}"))

    @property
    def _stem(self) -> str:
        return self.before.name or self.before.outputs[0].name or self.before.op_type

    def node(self, op: str, *inputs: ir.Value, attributes: tuple[ir.Attr, ...] = ()) -> ir.Value:
        name = self.writer.fresh(f"{self._stem}_{op.lower()}")
        dtype = ir.DataType.INT64 if op == "Shape" else self.dtype
        output = ir.Value(name=self.writer.fresh(f"{name}_output"), type=ir.TensorType(dtype))
        self.graph.insert_before(self.before, ir.Node("", op, inputs, attributes, outputs=[output], name=name))
        return output

    def sizes(self, role: str, values: Sequence[int]) -> ir.Value:
        return self._held(role, ir.tensor(np.asarray(values, dtype=np.int64)))

    def mean(self, value: ir.Value, axes: tuple[int, ...]) -> ir.Value:
        keep = ir.AttrInt64("keepdims", 1)
        if self.writer.opset < AXES_AS_INPUT:
            return self.node("ReduceMean", value, attributes=(ir.AttrInt64s("axes", axes), keep))
        return self.node("ReduceMean", value, self._held("axes", ir.tensor(np.asarray(axes))), attributes=(keep,))

    def deviation(self, value: ir.Value, axes: tuple[int, ...], epsilon: float) -> ir.Value:
        """The root of the mean square of ``value``, plus ``epsilon`` under it."""
        mean = self.mean(self.node("Pow", value, self.constant("two", np.asarray(2.0))), axes)
        return self.node("Sqrt", self.node("Add", mean, self.constant("epsilon", np.asarray(epsilon))))

    def normed(self, flat: ir.Value, by: Spelling, count: int, epsilon: float) -> ir.Value:
        """``flat``, ``[a, count, n]``, normalised over its last axis: by one operator, where there is a kernel."""
        rounded = ir.AttrFloat32("epsilon", epsilon)
        # The kernel for float64 takes the difference of two squares for the variance, and loses digits to a large mean.
        if by == "layer" and self.writer.newest >= LAYER_OPSET and self.dtype == ir.DataType.FLOAT:
            return self.node("LayerNormalization", flat, self.constant("one", np.ones(1)), attributes=(rounded,))
        # The GroupNormalization that came with opset 21 has no kernel, and is taken apart in a way that loses digits.
        if by in ("instance", "group") and self.dtype == ir.DataType.FLOAT and count > 0:
            constants = (self.constant(role, np.full(count, k)) for role, k in (("ones", 1.0), ("zeros", 0.0)))
            return self.node("InstanceNormalization", flat, *constants, attributes=(rounded,))
        centred = self.node("Sub", flat, self.mean(flat, (-1,)))
        return self.node("Div", centred, self.deviation(centred, (-1,), epsilon))

    def back(self, x: ir.Value, shape: Dims, *, grouped: bool) -> ir.Value:
        """What a Reshape needs to give its input the shape of ``x``, whose first size groups of channels have still."""
        known = [-1 if size is None else size for size in shape]
        known[0] = 0 if grouped else known[0]
        return self.sizes("shape", known) if known.count(-1) <= 1 else self.node("Shape", x)

    def tail(self, affine: Affine | None) -> list[tuple[str, ir.Value]]:
        """The operations that scale and shift by ``affine``."""
        steps = []
        if affine is not None and affine.scales:
            steps.append(("Mul", self.constant("scale", affine.scale)))
        if affine is not None and affine.shifts:
            steps.append(("Add", self.constant("bias", affine.shift)))
        return steps

    def end(self, value: ir.Value, steps: Sequence[tuple[str, *tuple[ir.Value, ...]]]) -> None:
        """Let ``before`` make what comes of ``value`` by ``steps``, operators with what they read besides."""
        for op, *operands in steps[:-1]:
            value = self.node(op, value, *operands)
        op, *operands = steps[-1]
        self.become(op, value, *operands)

    def become(self, op: str, *inputs: ir.Value) -> None:
        """Make ``before`` itself ``op`` of ``inputs``: what it makes stays the same value."""
        read = [old for old in self.before.inputs if old is not None]
        self.before.op_type, self.before.domain = op, ""
        self.before.attributes.clear()
        self.before.resize_outputs(1)
        self.before.resize_inputs(len(inputs))
        for slot, value in enumerate(inputs):
            self.before.replace_input_with(slot, value)
        for old in read:
            sweep(old)
