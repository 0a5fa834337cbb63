"""Values of a graph as polynomials in what a norm is made of, however an exporter has put it together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import onnx_ir as ir

from normfold.backends.onnx.lift.context import Context
from normfold.core.algebra import Affine
from normfold.core.algebra.moves import Dim
from normfold.core.algebra.polynomials import (
    CLOSE,
    MEAN_SQUARED,
    ONE,
    SQUARE,
    Polynomial,
    Variance,
    X,
    averaged,
    deviation_power,
)
from normfold.core.views import NotLifted

HALVES: Final = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
"""Types whose norms exporters compute in float32, as the operators do by themselves."""
DEPTH: Final = 40
"""Most operations between ``x`` and what is read: real ones have a dozen."""


@dataclass
class Reading:
    """The values between ``x`` and a norm of it over ``axes``, as polynomials.

    ``order`` says where nodes stand; ``skipped`` are those that count as if they passed their data on. ``grows`` is set
    where something may have been broadcast beyond the shape of ``x``, and ``casts`` where float32 was entered.
    """

    context: Context
    x: ir.Value
    axes: tuple[int, ...]
    order: Mapping[ir.Node, int]
    variance: Variance | None = None
    skipped: frozenset[ir.Node] = frozenset()
    grows: bool = False
    casts: set[ir.Node] = field(default_factory=set)
    known: dict[ir.Value, Polynomial | None] = field(default_factory=dict)

    def value(self, value: ir.Value | None, depth: int = DEPTH) -> Polynomial | None:
        """``value`` as a polynomial, where it is one."""
        if value is None or depth == 0:
            return None
        if value is self.x:
            return Polynomial({X: np.ones(())})
        if value not in self.known:
            self.known[value] = self._read(value, depth)
        return self.known[value]

    def _read(self, value: ir.Value, depth: int) -> Polynomial | None:
        node = value.producer()
        before = self.x.producer()
        first = -1 if before is None else self.order.get(before, -1)
        inside = node is not None and self.order.get(node, -1) > first
        if node is not None and inside and self.context.domain(node) == "" and node.op_type in READERS:
            if not isinstance(self.context.constants.find(value), str):
                return self._constant(value)
            with np.errstate(all="ignore"):
                return READERS[node.op_type](self, node, depth - 1)
        return self._constant(value)

    def _constant(self, value: ir.Value) -> Polynomial | None:
        array = self.context.constants.array(value)
        rank = self.context.rank(self.x)
        if array is None or (rank is not None and array.ndim > max(rank, 1)):
            return None
        return Polynomial.constant(array)

    def operands(self, node: ir.Node, depth: int) -> tuple[Polynomial, Polynomial] | None:
        """Both operands of an operation that has two; a skipped one leaves its data as it is."""
        if len(node.inputs) != 2:
            return None
        left, right = self.value(node.inputs[0], depth), None
        right = None if left is None else self.value(node.inputs[1], depth)
        return None if left is None or right is None else (left, right)

    def number(self, node: ir.Node, slot: int) -> float | None:
        """Input ``slot`` where it is one number."""
        array = self.context.constant(node, slot)
        return float(array.reshape(())) if array is not None and array.size == 1 else None

    def reduced_axes(self, node: ir.Node) -> tuple[int, ...] | None:
        """The axes of a reduction of a value that has the rank of ``x``, written as those of the norm are."""
        return axes_of(self.context, node, self.context.rank(self.x))

    def averages(self, node: ir.Node, operand: Polynomial | None) -> Polynomial | None:
        """The mean over the axes, which is known of ``x``, of its square, and of what does not vary along them."""
        if self.reduced_axes(node) != self.axes:
            return None
        return averaged(operand, self.axes, keeps=bool(node.attributes.get_int("keepdims", 1)))

    def root(self, operand: Polynomial | None, exponent: float) -> Polynomial | None:
        """A power of a variance plus epsilon, of one half more or less."""
        found = Variance.under(operand)
        if operand is None or found is None or self.variance not in (None, found):
            return None
        self.variance = found
        return deviation_power(operand.layout, exponent)

    def normal(self, made: Polynomial | None) -> Affine | None:
        """The scale and shift behind the norm that ``made`` is."""
        return None if self.variance is None else self.variance.normal(made)


def axes_of(context: Context, node: ir.Node, rank: int | None) -> tuple[int, ...] | None:
    """The axes of a reduction, in order and from the end where the rank is known; ``None`` where they are not known."""
    try:
        axes = context.integers(node, "axes", 1)
    except NotLifted:
        return None
    if not axes or (rank is not None and not all(-rank <= axis < rank for axis in axes)):
        return None
    return tuple(sorted(axes if rank is None else (axis % rank - rank for axis in axes)))


def _add(reading: Reading, node: ir.Node, depth: int) -> Polynomial | None:
    operands = reading.operands(node, depth)
    if operands is None:
        return None
    if node in reading.skipped:
        return operands[0] if set(operands[1].terms) <= {ONE} else operands[1]
    return operands[0].plus(operands[1])


def _sub(reading: Reading, node: ir.Node, depth: int) -> Polynomial | None:
    operands = reading.operands(node, depth)
    if operands is None:
        return None
    left, right = operands[0], operands[1].scaled(-1)
    if node in reading.skipped:
        return left if set(right.terms) <= {ONE} else right
    return left.plus(right)


def _mul(reading: Reading, node: ir.Node, depth: int) -> Polynomial | None:
    operands = reading.operands(node, depth)
    if operands is None:
        return None
    if node in reading.skipped:
        return operands[0] if set(operands[1].terms) <= {ONE} else operands[1]
    return operands[0].times(operands[1])


def _div(reading: Reading, node: ir.Node, depth: int) -> Polynomial | None:
    operands = reading.operands(node, depth)
    if operands is None:
        return None
    if node in reading.skipped:
        return operands[0]
    inverse = operands[1].reciprocal()
    return None if inverse is None else operands[0].times(inverse)


def _reciprocal(reading: Reading, node: ir.Node, depth: int) -> Polynomial | None:
    operand = reading.value(node.inputs[0], depth)
    return None if operand is None else operand.reciprocal()


def _pow(reading: Reading, node: ir.Node, depth: int) -> Polynomial | None:
    operand, exponent = reading.value(node.inputs[0], depth), reading.number(node, 1)
    if operand is None or exponent is None:
        return None
    if exponent == 2:
        return operand.times(operand)
    if exponent == -1:
        return operand.reciprocal()
    return reading.root(operand, exponent) if exponent in (0.5, -0.5) else None


def _sqrt(reading: Reading, node: ir.Node, depth: int) -> Polynomial | None:
    return reading.root(reading.value(node.inputs[0], depth), 0.5)


def _neg(reading: Reading, node: ir.Node, depth: int) -> Polynomial | None:
    operand = reading.value(node.inputs[0], depth)
    return None if operand is None else operand.scaled(-1)


def _mean(reading: Reading, node: ir.Node, depth: int) -> Polynomial | None:
    return reading.averages(node, reading.value(node.inputs[0], depth))


def _sum(reading: Reading, node: ir.Node, depth: int) -> Polynomial | None:
    shape = reading.context.shape(reading.x)
    sizes = [None if shape is None else shape[axis] for axis in reading.axes]
    count = 1
    for size in sizes:
        if not isinstance(size, int):
            return None
        count *= size
    mean = _mean(reading, node, depth)
    return None if mean is None else mean.scaled(count)


def _not_negative(reading: Reading, node: ir.Node, depth: int) -> Polynomial | None:
    """``max(variance, 0)``: only rounding could have made it negative."""
    kept = reading.value(node.inputs[0], depth)
    bounds = [reading.number(node, slot) for slot in range(1, len(node.inputs))]
    if node.op_type == "Max" and len(node.inputs) == 2 and kept is not None and not set(kept.terms) - {ONE}:
        kept, bounds = reading.value(node.inputs[1], depth), [reading.number(node, 0)]
    if node.op_type == "Clip":
        low = node.attributes.get_float("min", -1.0) if not bounds else bounds[0]
        bounds = [low] if len(bounds) < 2 or node.inputs[2] is None else []
        bounds = [] if "max" in node.attributes else bounds
    if kept is None or (node.op_type != "Relu" and bounds != [0.0]) or not kept.numeric:
        return None
    square, mean = float(kept.get(SQUARE)), float(kept.get(MEAN_SQUARED))
    centred = set(kept.terms) == {SQUARE, MEAN_SQUARED} and square > 0 and abs(1 + mean / square) <= CLOSE
    return kept if centred else None


def _same(reading: Reading, node: ir.Node, depth: int) -> Polynomial | None:
    return reading.value(node.inputs[0], depth)


def _cast(reading: Reading, node: ir.Node, depth: int) -> Polynomial | None:
    """A copy in float32 of what was half as long, and one that changes nothing."""
    source = node.inputs[0]
    operand = reading.value(source, depth)
    if operand is None or source is None:
        return None
    before, after = reading.context.dtype(source), node.attributes.get_int("to", 0)
    if before == after:
        return operand
    if before not in HALVES or after != ir.DataType.FLOAT:
        return None
    reading.casts.add(node)
    return operand


def _reshaped(reading: Reading, node: ir.Node, depth: int) -> Polynomial | None:
    """Statistics that get the axes back that were reduced, or keep them."""
    operand, source = reading.value(node.inputs[0], depth), node.inputs[0]
    rank = reading.context.rank(reading.x)
    if operand is None or source is None or rank is None or any(powers.x for powers in operand.terms):
        return None
    if node.op_type == "Unsqueeze":
        restores = operand.layout == "reduced" and axes_of(reading.context, node, rank) == reading.axes
        return Polynomial(operand.terms) if restores else None
    dims = target(reading.context, node)
    if dims is None or len(dims) != rank or any(dims[axis] != 1 for axis in reading.axes) or not operand.numeric:
        return None
    whole = reading.context.shape(reading.x) or ()
    others = [(dims[axis], whole[axis]) for axis in range(-rank, 0) if axis not in reading.axes]
    if any(isinstance(now, int) and isinstance(then, int) and now not in (then, 0) for now, then in others):
        return None
    # Where all sizes but one are those of x, so is that one: there are as many elements.
    reading.grows |= sum(now != then or now is None for now, then in others) > 1
    return Polynomial(operand.terms)


def _expanded(reading: Reading, node: ir.Node, depth: int) -> Polynomial | None:
    """Broadcasting that the arithmetic would do by itself."""
    operand, rank = reading.value(node.inputs[0], depth), reading.context.rank(reading.x)
    dims, whole = target(reading.context, node), reading.context.shape(reading.x)
    if operand is None or operand.layout != "whole" or rank is None or dims is None or len(dims) > rank:
        return None
    pairs = dict(enumerate(zip(dims[::-1], (whole or (None,) * rank)[::-1], strict=False), start=1))
    wider = {-k for k, (now, then) in pairs.items() if now != 1 and (now is None or now != then)}
    if not wider.isdisjoint(reading.axes):
        return None
    reading.grows |= bool(wider)
    return operand


def target(context: Context, node: ir.Node) -> list[Dim] | None:
    """The dimensions that a Reshape or an Expand asks for, or, where that says more, has."""
    sizes = node.inputs[1] if len(node.inputs) > 1 else None
    # What a caller may set is what it says only until then: inference takes the default for it.
    if sizes is None or (sizes.is_initializer() and isinstance(context.constants.find(sizes), str)):
        return None
    asked = _entries(context, sizes)
    made = context.shape(node.outputs[0])
    if asked is None or made is None or len(asked) != len(made):
        return list(made) if made is not None else asked
    return [
        then if now is None or not isinstance(then, str | None) else now for now, then in zip(asked, made, strict=True)
    ]


def _entries(context: Context, value: ir.Value | None, depth: int = 8) -> list[Dim] | None:
    """The entries of a list of sizes, as far as they are known before the model runs."""
    if value is None or depth == 0:
        return None
    array = context.constants.array(value)
    if array is not None and array.ndim == 1:
        return [int(k) if k > 0 else None for k in array]
    node, shape = value.producer(), context.shape(value)
    if node is not None and node.op_type == "Cast":
        return _entries(context, node.inputs[0], depth - 1)
    if node is not None and node.op_type == "Concat":
        parts = [_entries(context, part, depth - 1) for part in node.inputs]
        if all(part is not None for part in parts):
            return [size for part in parts if part is not None for size in part]
    return [None] * shape[0] if shape is not None and len(shape) == 1 and isinstance(shape[0], int) else None


READERS: Final[Mapping[str, Callable[[Reading, ir.Node, int], Polynomial | None]]] = {
    "Add": _add,
    "Cast": _cast,
    "Clip": _not_negative,
    "Div": _div,
    "Expand": _expanded,
    "Identity": _same,
    "Max": _not_negative,
    "Mul": _mul,
    "Neg": _neg,
    "Pow": _pow,
    "Reciprocal": _reciprocal,
    "ReduceMean": _mean,
    "ReduceSum": _sum,
    "Relu": _not_negative,
    "Reshape": _reshaped,
    "Sqrt": _sqrt,
    "Sub": _sub,
    "Unsqueeze": _reshaped,
}
"""What is read; everything else ends the reading."""
