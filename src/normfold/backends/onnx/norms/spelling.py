"""Norms in other operations, where no operator does, or where ONNX Runtime has no kernel for the one that does.

An RMSNorm is ``Pow, ReduceMean, Add, Sqrt, Div, Mul`` in this order, which ONNX Runtime recognises and runs as one
kernel; with a Mul for the Pow, or a Reciprocal for the Div, it does not. A GroupNorm is an InstanceNormalization
between two reshapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx_ir as ir

from normfold.backends.onnx.reading.constants import ExactTensor
from normfold.backends.onnx.write.commit import Writer, sweep
from normfold.core.algebra.affine import Array
from normfold.core.views import Norm

AXES_AS_INPUT: Final = 18
"""The opset from which ReduceMean reads its axes."""
SPELLED: Final = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE})
"""Types in which squares and their mean are computed as well as an operator would; half precision overflows."""


def spell_rms(writer: Writer, view: Norm, dtype: ir.DataType) -> None:
    """Let elementary operations of ``dtype`` make what the node of ``view`` makes, as ``view``, an RMSNorm, says."""
    node, x, axes = view.node, view.inputs[0], view.axes
    if not isinstance(node, ir.Node) or not isinstance(x, ir.Value) or axes is None or view.epsilon is None:
        raise TypeError(f"not a norm that can be written out: {view.op}")
    spell = _Speller(writer, node, dtype)
    square = spell.node("Pow", x, spell.constant("two", np.asarray(2.0)))
    mean = spell.mean(square, axes)
    root = spell.node("Sqrt", spell.node("Add", mean, spell.constant("epsilon", np.asarray(view.epsilon))))
    spell.end(view, x, ("Div", root))


def spell_instance(writer: Writer, view: Norm, shape: Sequence[int]) -> None:
    """Let an InstanceNormalization of the groups of ``view``, a GroupNorm in float32, make what its node makes.

    ``shape`` is that of its input, with -1 for one size that is not known and 0 for that of the first axis.
    """
    node, x, groups = view.node, view.inputs[0], view.groups
    if not isinstance(node, ir.Node) or not isinstance(x, ir.Value) or groups is None or view.epsilon is None:
        raise TypeError(f"not a norm of groups: {view.op}")
    spell = _Speller(writer, node, ir.DataType.FLOAT)
    ones, zeros = (spell.constant(role, np.full(groups.count, k)) for role, k in (("ones", 1.0), ("zeros", 0.0)))
    flat = spell.node("Reshape", x, spell.sizes("groups", (0, groups.count, -1)))
    epsilon = ir.AttrFloat32("epsilon", view.epsilon)
    normed = spell.node("InstanceNormalization", flat, ones, zeros, attributes=(epsilon,))
    spell.end(view, normed, ("Reshape", spell.sizes("shape", shape)))


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
        output = ir.Value(name=self.writer.fresh(f"{name}_output"), type=ir.TensorType(self.dtype))
        self.graph.insert_before(self.before, ir.Node("", op, inputs, attributes, outputs=[output], name=name))
        return output

    def sizes(self, role: str, values: Sequence[int]) -> ir.Value:
        return self._held(role, ir.tensor(np.asarray(values, dtype=np.int64)))

    def mean(self, value: ir.Value, axes: tuple[int, ...]) -> ir.Value:
        keep = ir.AttrInt64("keepdims", 1)
        if self.writer.opset < AXES_AS_INPUT:
            return self.node("ReduceMean", value, attributes=(ir.AttrInt64s("axes", axes), keep))
        return self.node("ReduceMean", value, self._held("axes", ir.tensor(np.asarray(axes))), attributes=(keep,))

    def end(self, view: Norm, value: ir.Value, first: tuple[str, ir.Value]) -> None:
        """Let ``before`` make ``first`` of ``value``, with the scale and shift of ``view`` behind it."""
        steps = [first]
        if view.tail is not None and view.tail.scales:
            steps.append(("Mul", self.constant("scale", view.tail.scale)))
        if view.tail is not None and view.tail.shifts:
            steps.append(("Add", self.constant("bias", view.tail.shift)))
        for op, operand in steps[:-1]:
            value = self.node(op, value, operand)
        self.become(*steps[-1], value)

    def become(self, op: str, operand: ir.Value, value: ir.Value) -> None:
        """Make ``before`` itself ``op`` of ``value`` and ``operand``: what it makes stays the same value."""
        read = [old for old in self.before.inputs if old is not None]
        self.before.op_type, self.before.domain = op, ""
        self.before.attributes.clear()
        self.before.resize_inputs(2)
        self.before.replace_input_with(0, value)
        self.before.replace_input_with(1, operand)
        for old in read:
            sweep(old)
