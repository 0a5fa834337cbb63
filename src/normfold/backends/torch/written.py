"""Norms that a forward writes out itself, seen as one operation: T5LayerNorm, LlamaRMSNorm, a LayerNorm2d by hand.

What the operations amount to is read from their algebra (`normfold.core.algebra.polynomials`), not from the names of
classes. The scale may be a stored tensor or one plus a stored tensor, as in Gemma.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch

from normfold.backends.torch.constants import exact
from normfold.backends.torch.schemas import TENSORS
from normfold.backends.torch.tracer import Op, Trace, Value
from normfold.core.algebra import Affine, trim
from normfold.core.algebra.affine import Array
from normfold.core.algebra.polynomials import Polynomial, Variance, X, averaged, deviation_power

WRITTEN: Final = "written norm"
"""The kind of the operation that stands for those that write a norm out, which its argument ``steps`` holds."""
DEPTH: Final = 16
"""Most operations between a norm's input and its deviation, or its deviation and its output."""
ROOTS: Final = frozenset({"rsqrt", "sqrt", "pow"})
STATISTICS: Final = frozenset({"mean", "var", "var_mean", "std", "std_mean", "sum"})


def written_norms(trace: Trace) -> Iterator[Op]:
    """Every norm that ``trace`` writes out, as one operation, in the order of the run."""
    readers: dict[Value, list[Op]] = {}
    for op in trace.ops:
        for value in op.inputs:
            readers.setdefault(value, []).append(op)
    taken: set[Op] = set()
    for op in trace.ops:
        if op.kind in ROOTS and op not in taken and len(op.outputs) == 1 and op.outputs[0].tensor is None:
            found = _norm(op, readers)
            if found is not None and taken.isdisjoint(found.steps):
                taken |= set(found.steps)
                yield _joined(found)


@dataclass(frozen=True, eq=False, slots=True)
class _Written:
    """A norm of ``x`` over ``axes``, made by ``steps``; its ``tail`` is made of ``constants``."""

    x: Value
    axes: tuple[int, ...]
    variance: Variance
    tail: Affine
    steps: tuple[Op, ...]
    constants: tuple[Value, ...]


@dataclass(eq=False)
class _Reading:
    """Values between ``x`` and a norm of it over ``axes``, as polynomials."""

    x: Value
    axes: tuple[int, ...]
    variance: Variance | None = None
    known: dict[Value, Polynomial | None] = field(default_factory=dict)

    def value(self, value: Any, depth: int = DEPTH) -> Polynomial | None:
        """``value``, a tensor or a number, as a polynomial, where it is one."""
        if value is self.x:
            return Polynomial({X: np.ones(())})
        if isinstance(value, int | float):
            return Polynomial.constant(np.asarray(float(value)))
        if not isinstance(value, Value) or depth == 0:
            return None
        if value not in self.known:
            self.known[value] = self._read(value, depth)
        return self.known[value]

    def _read(self, value: Value, depth: int) -> Polynomial | None:
        if value.tensor is not None:
            fits = type(value.tensor) in TENSORS and value.tensor.is_floating_point() and value.memory.written < 0
            return Polynomial.constant(exact(value.tensor)) if fits and len(value.shape) <= len(self.x.shape) else None
        op = value.op
        reader = None if op is None else READERS.get(op.kind)
        if op is None or reader is None:
            return None
        with np.errstate(all="ignore"):
            return reader(self, op, value, depth - 1)

    def both(self, op: Op, depth: int) -> tuple[Polynomial, Polynomial] | None:
        """The two operands of ``op``."""
        left = self.value(op.arguments["self"], depth)
        right = None if left is None else self.value(op.arguments["other"], depth)
        return None if left is None or right is None else (left, right)

    def averaged(self, op: Op, operand: Polynomial | None) -> Polynomial | None:
        """The mean of ``operand`` over the axes of ``op``, where they are those of the norm."""
        if operand is None or _axes(op, len(self.x.shape)) != self.axes:
            return None
        return averaged(operand, self.axes, keeps=bool(op.arguments.get("keepdim")))

    def variance_of(self, op: Op, depth: int) -> Polynomial | None:
        """``mean(x^2) - mean(x)^2``, where ``op`` divides by the number of elements."""
        divisor = op.arguments.get("correction", op.arguments.get("unbiased"))
        operand = self.value(op.arguments["self"], depth)
        if operand is None or divisor is None or float(divisor) != 0:
            return None
        mean, square = (self.averaged(op, one) for one in (operand, operand.times(operand)))
        centred = None if mean is None else mean.times(mean)
        return None if square is None or centred is None else square.plus(centred.scaled(-1))

    def root(self, operand: Polynomial | None, exponent: float) -> Polynomial | None:
        """A power of the variance plus epsilon, of one half more or less."""
        found = Variance.under(operand)
        if operand is None or found is None or self.variance not in (None, found):
            return None
        self.variance = found
        return deviation_power(operand.layout, exponent)


def _axes(op: Op, rank: int) -> tuple[int, ...] | None:
    dims = op.arguments.get("dim")
    chosen = (dims,) if isinstance(dims, int) else dims
    return tuple(sorted(axis % rank - rank for axis in chosen)) if chosen else None


def _norm(root: Op, readers: Mapping[Value, list[Op]]) -> _Written | None:
    """The norm whose deviation ``root`` makes."""
    for x, axes in _candidates(root):
        reading = _Reading(x, axes)
        if reading.value(root.outputs[0]) is None or reading.variance is None:
            continue
        last, tail = _last(root, reading, readers)
        if last is not None and tail is not None:
            found = _finished(reading, reading.variance, last, tail, readers)
            if found is not None:
                return found
    return None


def _candidates(root: Op) -> Iterator[tuple[Value, tuple[int, ...]]]:
    """What ``root`` may be a deviation of, and over which axes; the value from furthest away first."""
    seen: dict[Value, None] = {}
    found: list[tuple[Op, Value]] = []
    todo = [(value, DEPTH) for value in root.inputs]
    while todo:
        value, depth = todo.pop(0)
        if value in seen or value.tensor is not None or depth == 0:
            continue
        seen[value] = None
        if value.op is not None and value.op.kind in READERS:
            if value.op.kind in STATISTICS and isinstance(value.op.arguments["self"], Value):
                found.append((value.op, value.op.arguments["self"]))
            todo += [(one, depth - 1) for one in value.op.inputs]
    axes = next((axes for op, value in found if (axes := _axes(op, len(value.shape))) is not None), None)
    shape = next((value.shape for op, value in found), None)
    if axes is not None:
        yield from ((value, axes) for value in reversed(seen) if value.shape == shape)


def _last(root: Op, reading: _Reading, readers: Mapping[Value, list[Op]]) -> tuple[Value | None, Affine | None]:
    """The last value behind ``root`` that is the norm and an affine map, and that map."""
    value, last, tail = root.outputs[0], None, None
    for _ in range(DEPTH):
        after = [op for op in readers.get(value, ()) if op.kind in READERS and len(op.outputs) == 1]
        made = next((op.outputs[0] for op in after if reading.value(op.outputs[0]) is not None), None)
        if made is None:
            break
        value = made
        affine = None if reading.variance is None else reading.variance.normal(reading.value(value))
        if affine is not None and value.shape == reading.x.shape:
            last, tail = value, affine
        if last is not None and (value.kept is not None or len(readers.get(value, ())) != 1):
            break
    return last, tail


def _finished(
    reading: _Reading, variance: Variance, last: Value, tail: Affine, readers: Mapping[Value, list[Op]]
) -> _Written | None:
    steps: dict[Op, None] = {}
    constants: dict[Value, None] = {}
    todo = [last]
    while todo:
        value = todo.pop()
        if value is reading.x or value.op in steps:
            continue
        if value.tensor is not None:
            constants |= {value: None} if trim(exact(value.tensor)).ndim else {}
        elif value.op is not None:
            steps[value.op] = None
            todo += value.op.inputs
        else:
            return None
    inside = sorted(steps, key=lambda op: op.index)
    for op in inside:
        for output in op.outputs:
            if output is not last and (output.kept is not None or not steps.keys() >= set(readers.get(output, ()))):
                return None
    return _Written(reading.x, reading.axes, variance, tail, tuple(inside), tuple(constants))


def _joined(found: _Written) -> Op:
    last = found.steps[-1]
    held, made = _held(found)
    kind = "layer" if found.variance.centred else "rms"
    arguments = {
        "input": found.x,
        "steps": (*made, *found.steps),
        "norm": kind,
        "axes": found.axes,
        "eps": found.variance.epsilon,
        **held,
    }
    # It is named after the call that normalises, whatever the code around that does with the result.
    home = next(step for step in found.steps if step.kind in ROOTS).call
    named = next(step for step in reversed(found.steps) if step.call is home)
    op = Op(WRITTEN, named.name, last.index, home, arguments, last.outputs)
    op.outputs[0].op = op
    gone = {*made, *found.steps} - {named}
    for call in dict.fromkeys(step.call for step in (*made, *found.steps)):
        call.items = [op if item is named else item for item in call.items if item not in gone]
    return op


def _held(found: _Written) -> tuple[dict[str, Any], list[Op]]:
    """The stored tensors that are the scale and the shift, with what is added to the first; and what makes them.

    Those of a norm that has others besides, or whose scale is none of them, do not move.
    """
    out: dict[str, Any] = {}
    made: list[Op] = []
    for value in found.constants:
        role = _role(found, value)
        source, offset, steps = _source(value)
        if role is None or role in out or source is None or (offset and role == "bias"):
            return {}, []
        out |= {role: source, "offset": out.get("offset", 0.0) + offset}
        made += steps
    return ({**out, "tail": found.tail}, made) if "weight" in out else ({}, [])


def _role(found: _Written, value: Value) -> str | None:
    """Whether ``value`` is all of the scale or all of the shift: another one in its place becomes just that."""
    if value.tensor is None:
        return None
    shape = trim(exact(value.tensor)).shape
    other = (np.arange(float(np.prod(shape))) + np.e).reshape(shape)
    reading = _Reading(found.x, found.axes, known={value: Polynomial.constant(other)})
    made = reading.value(found.steps[-1].outputs[0])
    affine = None if reading.variance is None else reading.variance.normal(made)
    if affine is None:
        return None
    scaled, shifted = (
        not _same_everywhere(*pair) for pair in ((affine.scale, found.tail.scale), (affine.shift, found.tail.shift))
    )
    if scaled and not shifted and np.array_equal(affine.scale, other):
        return "weight"
    return "bias" if shifted and not scaled and np.array_equal(affine.shift, other) else None


def _same_everywhere(one: Array, other: Array) -> bool:
    return bool(np.equal(one, other).all())


def _source(value: Value) -> tuple[Value | None, float, list[Op]]:
    """The stored tensor that ``value`` is, but for a number that is added and its shape; and what is done to it."""
    offset, steps, count = 0.0, [], np.prod(value.shape)
    while not value.names:
        op = value.op
        if op is None or op.kind not in SHAPING:
            return None, 0.0, []
        steps.append(op)
        sides = [op.arguments[name] for name in ("self", "other", "input") if name in op.arguments]
        tensors = [side for side in sides if isinstance(side, Value)]
        if op.kind == "add":
            numbers = [side for side in sides if not isinstance(side, Value)]
            if len(tensors) != 1 or len(numbers) != 1 or op.arguments.get("alpha", 1) != 1:
                return None, 0.0, []
            offset += float(numbers[0])
        value = tensors[0]
    return (value, offset, steps) if np.prod(value.shape) == count else (None, 0.0, [])


def _add(reading: _Reading, op: Op, _value: Value, depth: int) -> Polynomial | None:
    operands = reading.both(op, depth)
    if operands is None:
        return None
    factor = float(op.arguments.get("alpha", 1)) * (-1 if op.kind == "sub" else 1)
    return operands[0].plus(operands[1].scaled(factor))


def _rsub(reading: _Reading, op: Op, _value: Value, depth: int) -> Polynomial | None:
    operands = reading.both(op, depth)
    return None if operands is None else operands[1].plus(operands[0].scaled(-float(op.arguments.get("alpha", 1))))


def _mul(reading: _Reading, op: Op, _value: Value, depth: int) -> Polynomial | None:
    operands = reading.both(op, depth)
    return None if operands is None else operands[0].times(operands[1])


def _div(reading: _Reading, op: Op, _value: Value, depth: int) -> Polynomial | None:
    operands = None if op.arguments.get("rounding_mode") else reading.both(op, depth)
    inverse = None if operands is None else operands[1].reciprocal()
    return None if operands is None or inverse is None else operands[0].times(inverse)


def _reciprocal(reading: _Reading, op: Op, _value: Value, depth: int) -> Polynomial | None:
    operand = reading.value(op.arguments["self"], depth)
    return None if operand is None else operand.reciprocal()


def _neg(reading: _Reading, op: Op, _value: Value, depth: int) -> Polynomial | None:
    operand = reading.value(op.arguments["self"], depth)
    return None if operand is None else operand.scaled(-1)


def _pow(reading: _Reading, op: Op, _value: Value, depth: int) -> Polynomial | None:
    operand, exponent = reading.value(op.arguments["self"], depth), op.arguments.get("exponent", 2)
    if operand is None or not isinstance(exponent, int | float):
        return None
    if exponent == 2:
        return operand.times(operand)
    if exponent == -1:
        return operand.reciprocal()
    return reading.root(operand, exponent) if exponent in (0.5, -0.5) else None


def _root(reading: _Reading, op: Op, _value: Value, depth: int) -> Polynomial | None:
    return reading.root(reading.value(op.arguments["self"], depth), -0.5 if op.kind == "rsqrt" else 0.5)


def _mean(reading: _Reading, op: Op, _value: Value, depth: int) -> Polynomial | None:
    return reading.averaged(op, reading.value(op.arguments["self"], depth))


def _sum(reading: _Reading, op: Op, _value: Value, depth: int) -> Polynomial | None:
    mean = reading.averaged(op, reading.value(op.arguments["self"], depth))
    return None if mean is None else mean.scaled(float(np.prod([reading.x.shape[axis] for axis in reading.axes])))


def _var(reading: _Reading, op: Op, value: Value, depth: int) -> Polynomial | None:
    if value is op.outputs[0]:
        return reading.variance_of(op, depth)
    return reading.averaged(op, reading.value(op.arguments["self"], depth))


def _same(reading: _Reading, op: Op, _value: Value, depth: int) -> Polynomial | None:
    return reading.value(op.arguments["self"], depth)


def _cast(reading: _Reading, op: Op, _value: Value, depth: int) -> Polynomial | None:
    """A copy in another floating type: the norm is computed in that, before and after its scale moves."""
    dtype = op.arguments.get("dtype")
    floating = dtype is None or (isinstance(dtype, torch.dtype) and dtype.is_floating_point)
    return reading.value(op.arguments["self"], depth) if floating else None


def _unsqueezed(reading: _Reading, op: Op, _value: Value, depth: int) -> Polynomial | None:
    """Statistics that get the axis back that was reduced."""
    operand, rank = reading.value(op.arguments["self"], depth), len(reading.x.shape)
    restores = operand is not None and operand.layout == "reduced" and _axes(op, rank) == reading.axes
    return Polynomial(operand.terms) if operand is not None and restores else None


Reader = Callable[[_Reading, Op, Value, int], Polynomial | None]
READERS: Final[Mapping[str, Reader]] = {
    **dict.fromkeys(("add", "sub"), _add),
    "rsub": _rsub,
    **dict.fromkeys(("mul", "multiply"), _mul),
    **dict.fromkeys(("div", "divide", "true_divide"), _div),
    "reciprocal": _reciprocal,
    **dict.fromkeys(("neg", "negative"), _neg),
    **dict.fromkeys(("pow", "square"), _pow),
    **dict.fromkeys(("sqrt", "rsqrt"), _root),
    "mean": _mean,
    "sum": _sum,
    **dict.fromkeys(("var", "var_mean"), _var),
    **dict.fromkeys(("clone", "contiguous", "detach", "alias"), _same),
    **dict.fromkeys(("to", "_to_copy", "type_as"), _cast),
    "unsqueeze": _unsqueezed,
}
"""What is read; everything else ends the reading."""
SHAPING: Final = frozenset({"add", "to", "_to_copy", "type_as", "unsqueeze", "view", "reshape", "detach"})
"""What may be done to a stored tensor before it is a norm's scale or shift, if its elements keep their order."""
