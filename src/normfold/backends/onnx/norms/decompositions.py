"""Norms that an exporter wrote as several elementary operations.

``x / sqrt(mean(x^2) + epsilon)`` is an RMSNorm; with ``x - mean(x)`` for ``x`` it is a LayerNorm, or over the positions
of each channel an InstanceNorm. The multiplication and the addition by constants that follow belong to it.

What a chain of operations amounts to is read from their algebra (see `normfold.backends.onnx.norms.moments`), so that
it does not matter how an exporter puts it: with ``mean(x^2) - mean(x)^2`` for the variance, with sums divided by a
count, with axes taken away and put back, with Reciprocal, ``1 / d`` or ``Pow(-0.5)`` for the division, with the scale
inside, ``x * (g / d) + (b - mean * g / d)``, or with a Cast to float32 around the whole or from the difference on.

A GroupNorm is an InstanceNormalization between two reshapes, and its operations are looked at one by one: no runtime
recognises the whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Final

import numpy as np
import onnx_ir as ir

from normfold.backends.onnx.lift.context import Context
from normfold.backends.onnx.norms.moments import READERS, Reading, axes_of
from normfold.core.algebra import Affine, trim
from normfold.core.algebra.affine import Array
from normfold.core.algebra.moves import Dim

LAYER, RMS, INSTANCE = "LayerNormalization", "RMSNormalization", "InstanceNormalization"
MOST_BEFORE: Final = 32
"""Most operations before a deviation that are searched for what is normalised."""


@dataclass(frozen=True, eq=False)
class Decomposition:
    """One norm written out.

    ``operator`` is what it amounts to, over ``axes`` (negative where the rank of ``input`` is known). ``nodes`` make up
    the norm, in topological order, with the constants ``inner`` that are applied on the way; ``trailing`` apply further
    ones behind it, and ``tail`` is all of them. ``named`` is the node that the norm is named after, and ``entry`` the
    first that reads its input, at ``slot``. ``dtype`` is the input's type, as far as that is known. ``grows`` says that
    something on the way may be broadcast beyond its shape.
    """

    operator: str
    nodes: tuple[ir.Node, ...]
    trailing: tuple[ir.Node, ...]
    named: ir.Node
    entry: ir.Node
    slot: int
    axes: tuple[int, ...]
    epsilon: float
    inner: Affine
    tail: Affine
    holds_shift: bool
    dtype: ir.DataType | None
    grows: bool
    reading: Reading

    @property
    def norm(self) -> str:
        """What reports call it."""
        return f"{self.operator} (decomposed)"

    @property
    def input(self) -> ir.Value:
        """What it normalises: whatever folds put there."""
        value = self.entry.inputs[self.slot]
        if value is None:
            raise ValueError("a norm without an input")
        return value

    @property
    def core(self) -> ir.Node:
        """The node that makes what the constants behind it apply to."""
        return self.nodes[-1]

    @property
    def whole(self) -> tuple[ir.Node, ...]:
        """All its nodes; the last one makes its output."""
        return (*self.nodes, *self.trailing)

    @property
    def shape(self) -> tuple[Dim, ...] | None:
        """That of its input, as far as statistics are not broadcast beyond it, which they never are along its axes."""
        shape = self.reading.context.shape(self.input)
        if shape is None or not self.grows:
            return shape
        return tuple(dim if axis in self.axes else None for axis, dim in enumerate(shape, -len(shape)))

    def shared(self, nodes: Sequence[ir.Node]) -> ir.Node | None:
        """The first of ``nodes`` whose output something outside of it reads."""
        inside = set(self.whole)
        for node in nodes:
            output = node.outputs[0]
            if output.is_graph_output() or any(reader not in inside for reader, _ in output.uses()):
                return node
        return None

    def as_it_is(self) -> Decomposition:
        """This norm with what follows it now, where folds have taken out what did."""
        reading = replace(self.reading, x=self.input)
        trailing, tail = _trailing(reading, self.core, self.inner, _operator(reading, self.inner, self.core)[1])
        return replace(self, trailing=trailing, tail=tail)

    def applying(self) -> tuple[ir.Node, ...]:
        """The nodes inside that apply the constants of ``inner``, without which they are not; none if not known."""
        found = [node for node in self.nodes[:-1] if self._applies(node)]
        reading = replace(self.reading, x=self.input, skipped=frozenset(found), known={})
        left = reading.normal(reading.value(self.named.outputs[0]))
        return tuple(found) if left is not None and left.identity else ()

    def _applies(self, node: ir.Node) -> bool:
        wanted = {"Mul": (self.inner.scale,), "Add": (self.inner.shift,), "Sub": (self.inner.shift, -self.inner.shift)}
        constants = [trim(c) for value in node.inputs if (c := self.reading.context.constants.array(value)) is not None]
        return any(
            np.array_equal(constant, one) for constant in constants for one in wanted.get(node.op_type, ())
        ) and bool(self.inner.scales if node.op_type == "Mul" else self.inner.shifts)


@dataclass(frozen=True, eq=False)
class GroupNorm:
    """An InstanceNormalization between two reshapes, and the constants after it."""

    whole: tuple[ir.Node, ...]
    named: ir.Node
    norm: str = "GroupNormalization (decomposed)"


def find_decompositions(nodes: Iterable[ir.Node], context: Context) -> Iterator[Decomposition]:
    """Every norm among ``nodes``, which are in topological order, that is written out."""
    order = {node: k for k, node in enumerate(nodes)}
    for root in order:
        if root.op_type == "Sqrt" or (root.op_type == "Pow" and _scalar(context, root, 1) in (0.5, -0.5)):
            found = _read(root, order, context)
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


@dataclass(frozen=True, eq=False)
class _Candidate:
    """A norm as it was read: the node that makes the normalised value, and the map that is in it already."""

    reading: Reading
    named: ir.Node
    nodes: frozenset[ir.Node]
    inner: Affine


def _read(root: ir.Node, order: Mapping[ir.Node, int], context: Context) -> Decomposition | None:
    """The norm whose deviation, or one over it, ``root`` makes."""
    for x, axes in dict.fromkeys(_operands(root, context)):
        reading = Reading(context, x, axes, order)
        if isinstance(context.constants.find(x), str) and reading.value(root.outputs[0]) is not None:
            candidate = _normalised(reading, root)
            found = None if candidate is None else _finished(candidate, order)
            if found is not None:
                return found
    return None


def _operands(root: ir.Node, context: Context) -> Iterator[tuple[ir.Value, tuple[int, ...]]]:
    """What may be normalised, and over which axes: whatever is averaged or squared on the way, nearest the input first.

    ``mean((x - m)^2)`` may be the variance of ``x`` or the mean square of a value that is a difference.
    """
    pending, seen = [root], {root}
    while pending:
        node = pending.pop(0)
        value = node.inputs[0] if node.inputs else None
        if node.op_type in ("ReduceMean", "ReduceSum") and value is not None:
            axes = axes_of(context, node, context.rank(value))
            for x in () if axes is None else _origins(_squared(value), context):
                yield x, axes or ()
            continue
        for operand in node.inputs:
            before = None if operand is None else operand.producer()
            if before is not None and before not in seen and before.op_type in READERS and len(seen) < MOST_BEFORE:
                seen.add(before)
                pending.append(before)


def _squared(value: ir.Value) -> ir.Value:
    """What ``value`` is made of where it is a square, else itself."""
    node = _made_by(value, "Pow", "Mul", "Cast")
    if node is None or node.inputs[0] is None:
        return value
    if node.op_type == "Cast":
        return _squared(node.inputs[0])
    return node.inputs[0] if node.op_type == "Pow" or node.inputs[0] is node.inputs[1] else value


def _origins(value: ir.Value, context: Context, depth: int = 4) -> Iterator[ir.Value]:
    """What ``value`` was before it was centred or copied to float32, the earliest first, and itself."""
    node = _made_by(value, "Sub", "Cast", "Identity")
    for operand in () if node is None or not depth else node.inputs:
        if operand is not None and isinstance(context.constants.find(operand), str):
            yield from _origins(operand, context, depth - 1)
    yield value


def _normalised(reading: Reading, root: ir.Node) -> _Candidate | None:
    """The first value behind ``root`` that is a norm of what is read."""
    pending, seen = [root], {root}
    while pending:
        node = min(pending, key=reading.order.__getitem__)
        pending.remove(node)
        inner = reading.normal(reading.value(node.outputs[0]))
        if inner is not None:
            return _Candidate(reading, node, frozenset(_between(reading, node)), inner)
        for reader, _ in node.outputs[0].uses():
            if reader in reading.order and reader not in seen and reading.value(reader.outputs[0]) is not None:
                seen.add(reader)
                pending.append(reader)
    return None


def _between(reading: Reading, last: ir.Node) -> set[ir.Node]:
    """The nodes that make the output of ``last`` from what is read."""
    found, pending = {last}, [last]
    while pending:
        for value in pending.pop().inputs:
            node = None if value is None or value is reading.x or reading.known.get(value) is None else value.producer()
            constant = value is not None and not isinstance(reading.context.constants.find(value), str)
            if node is not None and not constant and node not in found:
                found.add(node)
                pending.append(node)
    return found


def _finished(candidate: _Candidate, order: Mapping[ir.Node, int]) -> Decomposition | None:
    """The whole norm: with the copy back to the type of its input, and with the constants that follow."""
    reading, inner = candidate.reading, candidate.inner
    context, variance, core = reading.context, reading.variance, _left_float32(candidate)
    if core is None or variance is None or len({node.graph for node in (*candidate.nodes, core)}) != 1:
        return None
    operator, room = _operator(reading, inner, core)
    if not _within(inner, room):
        return None
    trailing, tail = _trailing(reading, core, inner, room)
    nodes = tuple(sorted(candidate.nodes | {core}, key=order.__getitem__))
    entry = next(node for node in nodes if reading.x in node.inputs)
    return Decomposition(
        operator=operator,
        nodes=nodes,
        trailing=trailing,
        named=candidate.named,
        entry=entry,
        slot=list(entry.inputs).index(reading.x),
        axes=reading.axes,
        epsilon=variance.epsilon,
        inner=inner,
        tail=tail,
        holds_shift=inner.shifts or any(node.op_type == "Add" for node in trailing),
        dtype=context.dtype(reading.x),
        grows=reading.grows,
        reading=reading,
    )


def _trailing(
    reading: Reading, core: ir.Node, inner: Affine, room: Sequence[int]
) -> tuple[tuple[ir.Node, ...], Affine]:
    """What follows ``core`` and belongs to the norm, and all of the norm's constants."""
    centred = reading.variance is not None and reading.variance.centred
    tail, trailing = inner, list[ir.Node]()
    for op in ("Mul", "Add") if centred else ("Mul",):
        reader, constant = _by_constant(reading, (trailing or [core])[-1], op)
        then = None if constant is None else Affine.of(constant) if op == "Mul" else Affine.of(shift=constant)
        if reader is not None and then is not None and _within(then, room) and _alike(then, tail):
            tail = then.after(tail)
            trailing.append(reader)
    return tuple(trailing), tail


def _left_float32(candidate: _Candidate) -> ir.Node | None:
    """The node that makes the norm in its input's type: a Cast, where float32 was entered or one changes nothing."""
    reading, named = candidate.reading, candidate.named
    reader, entered = _only_reader(named.outputs[0]), not reading.casts.isdisjoint(candidate.nodes)
    kind = reading.context.dtype(reading.x)
    back = reader is not None and reader.op_type == "Cast" and reader.attributes.get_int("to", 0) == kind
    if not entered:
        return reader if back and reader is not None and reader.graph is named.graph else named
    # A scale inside was float32 and would lose digits.
    return reader if back and candidate.inner.identity else None


def _operator(reading: Reading, inner: Affine, core: ir.Node) -> tuple[str, tuple[int, ...]]:
    """The operator, and the axes along which its scale and bias vary."""
    axes, rank = reading.axes, reading.context.rank(reading.x)
    centred = reading.variance is not None and reading.variance.centred
    positions = rank is not None and rank > 2 and axes == tuple(range(2 - rank, 0))
    if not centred or rank is None or not positions:
        return (LAYER if centred else RMS), axes
    _, constant = _by_constant(reading, core, "Mul")
    first = inner if constant is None or inner.scales else Affine.of(constant)
    by_position, by_channel = (bool(first.shape) and _within(first, room) for room in (axes, (1 - rank,)))
    instance = not by_position and (by_channel or len(axes) > 1)
    return (INSTANCE, (1 - rank,)) if instance else (LAYER, axes)


def _by_constant(reading: Reading, node: ir.Node, op: str) -> tuple[ir.Node | None, Array | None]:
    """The operation ``op`` by a constant that alone reads the output of ``node``, and its constant."""
    reader, rank = _only_reader(node.outputs[0]), reading.context.rank(reading.x)
    if reader is None or reader.op_type != op or reader.domain or reader.graph is not node.graph:
        return None, None
    other = reader.inputs[1] if reader.inputs[0] is node.outputs[0] else reader.inputs[0]
    constant = reading.context.constants.array(other)
    if constant is None or (rank is not None and constant.ndim > rank and constant.size > 1):
        return reader, None
    return reader, trim(constant)


def _within(tail: Affine, room: Sequence[int]) -> bool:
    """Whether ``tail`` varies along the axes of ``room`` only."""
    return all(
        size == 1 or axis in room
        for constant in (tail.scale, tail.shift)
        for axis, size in enumerate(constant.shape, -constant.ndim)
    )


def _alike(first: Affine, second: Affine) -> bool:
    """Whether the constants of both fit one value."""
    sizes = (first.scale.shape[::-1], first.shift.shape[::-1], second.scale.shape[::-1], second.shift.shape[::-1])
    return all(len({*along} - {1}) <= 1 for along in zip_longest(*sizes, fillvalue=1))


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
