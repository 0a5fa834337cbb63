"""Norms that an exporter wrote as several elementary operations.

``x / sqrt(mean(x^2) + epsilon)`` is an RMSNorm; with ``x - mean(x)`` for ``x`` it is a LayerNorm, or over the positions
of each channel an InstanceNorm. The multiplication and the addition by constants that follow belong to it.

Variants that are read as well: ``mean(x^2) - mean(x)^2`` for the variance; Reciprocal, ``1 / d`` and ``Pow(-0.5)`` for
the division; the scale inside, ``x * (g / d) + (b - mean * g / d)``, as Keras and TensorFlow write it; and a Cast to
float32 around the whole or from the difference on.

A GroupNorm is an InstanceNormalization between two reshapes, and its operations are looked at one by one: no runtime
recognises the whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from normfold.backends.onnx.lift.context import Context
from normfold.core.algebra import Affine, trim
from normfold.core.algebra.affine import Array
from normfold.core.views import NotLifted

LAYER, RMS, INSTANCE = "LayerNormalization", "RMSNormalization", "InstanceNormalization"
HALVES = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
"""Types whose norms exporters compute in float32, as the operators do by themselves."""


@dataclass(frozen=True, eq=False)
class Decomposition:
    """One norm written out.

    ``operator`` is what it amounts to, over ``axes`` (negative where the rank of its input is known). ``nodes`` are in
    topological order, and the last one makes its output; ``named`` is the one that it is named after. ``tail`` is what
    its constants do. ``dtype`` is the type of its input, as far as that is known; ``entry`` is the first to read it.
    """

    operator: str
    nodes: tuple[ir.Node, ...]
    named: ir.Node
    axes: tuple[int, ...]
    epsilon: float
    tail: Affine
    holds_shift: bool
    dtype: ir.DataType | None
    entry: ir.Node

    @property
    def norm(self) -> str:
        """What reports call it."""
        return f"{self.operator} (decomposed)"

    @property
    def last(self) -> ir.Node:
        """The node that makes its output."""
        return self.nodes[-1]

    @property
    def input(self) -> ir.Value:
        """What it normalises."""
        value = self.entry.inputs[0]
        if value is None:
            raise ValueError("a norm without an input")
        return value

    def shared(self) -> ir.Node | None:
        """The first node inside that something outside reads."""
        inside = set(self.nodes)
        for node in self.nodes[:-1]:
            output = node.outputs[0]
            if output.is_graph_output() or any(reader not in inside for reader, _ in output.uses()):
                return node
        return None


@dataclass(frozen=True, eq=False)
class GroupNorm:
    """An InstanceNormalization between two reshapes, and the constants after it."""

    nodes: tuple[ir.Node, ...]
    named: ir.Node
    norm: str = "GroupNormalization (decomposed)"


def find_decompositions(nodes: Iterable[ir.Node], context: Context) -> Iterator[Decomposition]:
    """Every norm among ``nodes``, which are in topological order, that is written out."""
    order = {node: k for k, node in enumerate(nodes)}
    for root in order:
        if root.op_type == "Sqrt" or (root.op_type == "Pow" and _scalar(context, root, 1) in (0.5, -0.5)):
            readings = (_Reading(context, casts=casts).read(root, order) for casts in (True, False))
            found = next((reading for reading in readings if reading is not None), None)
            if found is not None:
                yield found


def find_group_norms(nodes: Iterable[ir.Node], context: Context) -> Iterator[GroupNorm]:
    """Every GroupNorm among ``nodes`` that is an InstanceNormalization between two reshapes."""
    for node in nodes:
        before = _made_by(node.inputs[0], "Reshape") if node.op_type == INSTANCE else None
        after = _only_reader(node.outputs[0]) if before is not None else None
        if before is None or after is None or after.op_type != "Reshape":
            continue
        tail: list[ir.Node] = []
        for op in ("Mul", "Add"):
            reader = _only_reader((tail[-1] if tail else after).outputs[0])
            if (
                reader is not None
                and reader.op_type == op
                and any(_array(context, v) is not None for v in reader.inputs)
            ):
                tail.append(reader)
        yield GroupNorm((before, node, after, *tail), node)


@dataclass
class _Reading:
    """What is known of one norm while its operations are read; ``nodes`` are those that make it up.

    ``casts`` says whether a Cast from a half type to float32 may be looked through.
    """

    context: Context
    casts: bool
    nodes: set[ir.Node] = field(default_factory=set)
    axes: tuple[int, ...] = ()
    centred: bool = False
    x: ir.Value | None = None

    def read(self, root: ir.Node, order: dict[ir.Node, int]) -> Decomposition | None:
        """The norm whose deviation ``root`` is."""
        plus = _made_by(root.inputs[0], "Add")
        slot = None if plus is None else next((k for k in (0, 1) if _scalar(self.context, plus, k) is not None), None)
        if plus is None or slot is None or not self._variance(plus.inputs[1 - slot]):
            return None
        if self.x is None or not isinstance(self.context.constants.find(self.x), str):
            return None
        self.nodes |= {plus, root}
        normalised = self._normalised(root)
        if normalised is None:
            return None
        named, tail = normalised
        last = self._cast_back(named, tail)
        if last is None:
            return None
        return self._finished(named, last, tail, _scalar(self.context, plus, slot) or 0.0, order)

    def _finished(
        self, named: ir.Node, last: ir.Node, tail: Affine, epsilon: float, order: dict[ir.Node, int]
    ) -> Decomposition | None:
        if self.x is None or len({node.graph for node in (*self.nodes, last)}) != 1:
            return None
        rank = self.context.rank(self.x)
        axes = self.axes if rank is None else tuple(sorted(axis - rank if axis >= 0 else axis for axis in self.axes))
        operator, room = self._operator(axes, rank, tail, last)
        if not _within(tail, room):
            return None
        holds_shift = tail.shifts
        for op in ("Mul", "Add") if self.centred else ("Mul",):
            reader, constant = self._by_constant(last, op)
            then = None if constant is None else Affine.of(constant) if op == "Mul" else Affine.of(shift=constant)
            if reader is None or then is None or not _within(then, room):
                continue
            tail, last, holds_shift = then.after(tail), reader, holds_shift or op == "Add"
            self.nodes.add(reader)
        nodes = tuple(sorted(self.nodes | {last}, key=order.__getitem__))
        entry = next(node for node in nodes if node.inputs[0] is self.x)
        dtype = self.context.dtype(self.x)
        return Decomposition(operator, nodes, named, axes, epsilon, tail, holds_shift, dtype, entry)

    def _operator(
        self, axes: tuple[int, ...], rank: int | None, tail: Affine, last: ir.Node
    ) -> tuple[str, tuple[int, ...]]:
        """The operator, and the axes along which its scale and bias vary."""
        positions = rank is not None and rank > 2 and axes == tuple(range(2 - rank, 0))
        if not self.centred or rank is None or not positions:
            return (LAYER if self.centred else RMS), axes
        _, constant = self._by_constant(last, "Mul")
        first = tail if constant is None or tail.scales else Affine.of(constant)
        by_position, by_channel = (bool(first.shape) and _within(first, room) for room in (axes, (1 - rank,)))
        instance = not by_position and (by_channel or len(axes) > 1)
        return (INSTANCE, (1 - rank,)) if instance else (LAYER, axes)

    def _by_constant(self, node: ir.Node, op: str) -> tuple[ir.Node | None, Array | None]:
        """The operation ``op`` by a constant that alone reads the output of ``node``, and its constant."""
        reader = _only_reader(node.outputs[0])
        if reader is None or reader.op_type != op or reader.graph is not node.graph:
            return None, None
        other = reader.inputs[1] if reader.inputs[0] is node.outputs[0] else reader.inputs[0]
        constant = _array(self.context, other)
        return reader, None if constant is None else trim(constant)

    # The variance -------------------------------------------------------------------------------------------------

    def _variance(self, value: ir.Value | None) -> bool:
        mean, difference = _made_by(value, "ReduceMean"), _made_by(value, "Sub")
        if mean is not None:
            return self._mean_square(mean)
        return difference is not None and self._by_moments(difference)

    def _mean_square(self, mean: ir.Node) -> bool:
        """``mean(c^2)``, where ``c`` may be ``x - mean(x)``."""
        squared = self._squared(mean.inputs[0])
        axes = self._reduced(mean)
        if squared is None or axes is None:
            return False
        self.axes, self.x = axes, squared
        self.nodes.add(mean)
        centred = _made_by(squared, "Sub")
        if centred is not None and centred.inputs[0] is not None:
            x = self._bare(centred.inputs[0])
            if self._is_mean(centred.inputs[1], x):
                self.x, self.centred = x, True
                self.nodes.add(centred)
        return True

    def _by_moments(self, difference: ir.Node) -> bool:
        """``mean(x^2) - mean(x)^2``."""
        mean = _made_by(difference.inputs[0], "ReduceMean")
        if mean is None or not self._mean_square(mean) or self.centred or self.x is None:
            return False
        square = self._squared(difference.inputs[1])
        self.nodes.add(difference)
        self.centred = True
        return square is not None and self._is_mean(square, self.x)

    def _squared(self, value: ir.Value | None) -> ir.Value | None:
        """``c`` where ``value`` is its square."""
        node = _made_by(value, "Pow", "Mul")
        if node is None or node.inputs[0] is None:
            return None
        doubled = node.inputs[0] is node.inputs[1] if node.op_type == "Mul" else _scalar(self.context, node, 1) == 2
        if not doubled:
            return None
        self.nodes.add(node)
        return self._bare(node.inputs[0])

    def _reduced(self, mean: ir.Node) -> tuple[int, ...] | None:
        """The axes of a ReduceMean that keeps them."""
        if not mean.attributes.get_int("keepdims", 1):
            return None
        try:
            axes = self.context.integers(mean, "axes", 1)
        except NotLifted:
            return None
        return tuple(sorted(axes)) if axes else None

    def _is_mean(self, value: ir.Value | None, x: ir.Value) -> bool:
        """Whether ``value`` is ``mean(x)`` over the same axes."""
        bare = None if value is None else self._bare(value)
        mean = _made_by(bare, "ReduceMean")
        if (
            mean is None
            or mean.inputs[0] is None
            or self._bare(mean.inputs[0]) is not x
            or self._reduced(mean) != self.axes
        ):
            return False
        self.nodes.add(mean)
        return True

    def _bare(self, value: ir.Value) -> ir.Value:
        """What ``value`` is a float32 copy of, else itself."""
        node = _made_by(value, "Cast") if self.casts else None
        source = None if node is None else node.inputs[0]
        if node is None or source is None or node.attributes.get_int("to", 0) != ir.DataType.FLOAT:
            return value
        if self.context.dtype(source) not in HALVES:
            return value
        self.nodes.add(node)
        return source

    # The division -------------------------------------------------------------------------------------------------

    def _normalised(self, root: ir.Node) -> tuple[ir.Node, Affine] | None:
        """The node that makes the normalised value, and the scale and shift that are in it already."""
        inverse = root if root.op_type == "Pow" and _scalar(self.context, root, 1) == -0.5 else None
        for reader, slot in () if inverse else root.outputs[0].uses():
            if reader.op_type == "Div" and slot == 1:
                if _scalar(self.context, reader, 0) == 1:
                    inverse = reader
                elif reader.inputs[0] is not None and self._is_numerator(reader.inputs[0]):
                    self.nodes.add(reader)
                    return reader, Affine.of()
            if reader.op_type == "Reciprocal":
                inverse = reader
        if inverse is None:
            return None
        self.nodes.add(inverse)
        scaler, scale = self._by_constant(inverse, "Mul")
        if scaler is None or scale is None:
            scaler, scale = inverse, np.ones(())
        self.nodes.add(scaler)
        return self._multiplied(scaler.outputs[0], scale)

    def _multiplied(self, factor: ir.Value, scale: Array) -> tuple[ir.Node, Affine] | None:
        """``c * factor``, or ``x * factor + (shift - mean * factor)``."""
        for reader, slot in factor.uses():
            other = reader.inputs[1 - slot] if reader.op_type == "Mul" else None
            if other is None:
                continue
            if self._is_numerator(other):
                self.nodes.add(reader)
                return reader, Affine.of(scale)
            if self.centred and self._bare(other) is self.x:
                self.nodes.add(reader)
                return self._with_shift(reader, factor, scale)
        return None

    def _with_shift(self, product: ir.Node, factor: ir.Value, scale: Array) -> tuple[ir.Node, Affine] | None:
        last = _only_reader(product.outputs[0])
        if last is None or last.op_type not in ("Add", "Sub"):
            return None
        slot = 0 if last.inputs[0] is product.outputs[0] else 1
        other = last.inputs[1 - slot]
        if last.op_type == "Sub":
            shift = np.zeros(()) if slot == 0 and self._is_mean_times(other, factor) else None
        else:
            shift = self._shift_less_mean(other, factor)
        if shift is None:
            return None
        self.nodes.add(last)
        return last, Affine.of(scale, shift)

    def _shift_less_mean(self, value: ir.Value | None, factor: ir.Value) -> Array | None:
        """``b`` where ``value`` is ``b - mean * factor``."""
        if self._is_minus_mean_times(value, factor):
            return np.zeros(())
        node = _made_by(value, "Sub", "Add")
        if node is None:
            return None
        for slot in (0,) if node.op_type == "Sub" else (0, 1):
            shift, other = _array(self.context, node.inputs[slot]), node.inputs[1 - slot]
            fits = self._is_mean_times if node.op_type == "Sub" else self._is_minus_mean_times
            if shift is not None and fits(other, factor):
                self.nodes.add(node)
                return trim(shift)
        return None

    def _is_minus_mean_times(self, value: ir.Value | None, factor: ir.Value) -> bool:
        """Whether ``value`` is ``-(mean * factor)`` or ``(-mean) * factor``."""
        negation, product = _made_by(value, "Neg"), _made_by(value, "Mul")
        if negation is not None:
            self.nodes.add(negation)
            return self._is_mean_times(negation.inputs[0], factor)
        if product is None or factor not in product.inputs:
            return False
        inner = _made_by(product.inputs[1 - product.inputs.index(factor)], "Neg")
        if inner is None or self.x is None or not self._is_mean(inner.inputs[0], self.x):
            return False
        self.nodes |= {product, inner}
        return True

    def _is_mean_times(self, value: ir.Value | None, factor: ir.Value) -> bool:
        product = _made_by(value, "Mul")
        if product is None or factor not in product.inputs or self.x is None:
            return False
        self.nodes.add(product)
        return self._is_mean(product.inputs[1 - product.inputs.index(factor)], self.x)

    def _is_numerator(self, value: ir.Value) -> bool:
        """Whether ``value`` is what was squared: ``x``, or ``x - mean(x)``, made once more perhaps."""
        bare = self._bare(value)
        if not self.centred or self.x is None:
            return bare is self.x
        node = _made_by(bare, "Sub")
        if node is None or node.inputs[0] is None or self._bare(node.inputs[0]) is not self.x:
            return False
        self.nodes.add(node)
        return self._is_mean(node.inputs[1], self.x)

    def _cast_back(self, node: ir.Node, tail: Affine) -> ir.Node | None:
        """``node``, or where float32 was entered by a Cast the one that leaves it again."""
        if not any(one.op_type == "Cast" for one in self.nodes):
            return node
        reader = _only_reader(node.outputs[0])
        kind = None if self.x is None else self.context.dtype(self.x)
        if reader is None or reader.op_type != "Cast" or reader.attributes.get_int("to", 0) != kind:
            return None
        # A scale inside was float32 and would lose digits.
        if tail.scales or tail.shifts:
            return None
        self.nodes.add(reader)
        return reader


def _within(tail: Affine, room: Sequence[int]) -> bool:
    """Whether ``tail`` varies along the axes of ``room`` only."""
    return all(
        size == 1 or axis in room
        for constant in (tail.scale, tail.shift)
        for axis, size in enumerate(constant.shape, -constant.ndim)
    )


def _scalar(context: Context, node: ir.Node, slot: int) -> float | None:
    array = _array(context, node.inputs[slot]) if slot < len(node.inputs) else None
    return float(array.reshape(())) if array is not None and array.size == 1 else None


def _array(context: Context, value: ir.Value | None) -> Array | None:
    return context.constants.array(value)


def _made_by(value: ir.Value | None, *operators: str) -> ir.Node | None:
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type in operators else None


def _only_reader(value: ir.Value) -> ir.Node | None:
    uses = list(value.uses())
    return uses[0][0] if len(uses) == 1 and not value.is_graph_output() else None
