"""Where the heads of attention come from: how a value of rank 4 is cut out of one [batch, sequence, hidden]."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Final

import onnx_ir as ir

from normfold.backends.onnx.clean.editor import DEFAULT_DOMAIN
from normfold.backends.onnx.clean.noops import Late
from normfold.backends.onnx.reading.constants import Constants
from normfold.core.algebra.moves import Dim

PART: Final = 2
"""Axis of the part where a value [batch, sequence, parts, heads, size] holds queries, keys and values."""


@dataclass(frozen=True, slots=True)
class Heads:
    """``scale`` times part ``part`` of ``parts`` along the last axis of ``source``, [batch, sequence, hidden]."""

    source: ir.Value
    batch: Dim
    sequence: Dim
    count: int
    size: int
    """Of one head."""
    scale: float
    part: int = 0
    parts: int = 1


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads a graph against the flow, as far as shapes and constants are known."""

    shapes: Late
    constants: Constants

    def node(self, value: ir.Value | None, *operators: str) -> ir.Node | None:
        """What makes ``value``, where it is one of the standard's ``operators``."""
        node = None if value is None else value.producer()
        return node if node and node.domain in DEFAULT_DOMAIN and node.op_type in operators else None

    def scaled(self, value: ir.Value) -> tuple[ir.Value, float] | None:
        """A value, and the number that ``value`` is the product with."""
        node = self.node(value, "Mul", "Div")
        if node is None or len(node.inputs) != 2:
            return None
        left, right = node.inputs
        for data, factor in ((left, right), (right, left)) if node.op_type == "Mul" else ((left, right),):
            number = None if data is None else self._number(factor)
            if data is not None and number:
                return data, number if node.op_type == "Mul" else 1 / number
        return None

    def _number(self, value: ir.Value | None) -> float | None:
        array = self.constants.array(value)
        return float(array.reshape(())) if array is not None and array.size == 1 and array.ndim <= 4 else None

    def integers(self, value: ir.Value | None) -> list[int] | None:
        """The elements of a constant of few integers."""
        array = self.constants.array(value)
        return None if array is None or array.size > 8 else [int(one) for one in array.reshape(-1)]

    def heads(self, value: ir.Value, order: Sequence[int]) -> Heads | None:
        """What ``value`` is cut out of, its axes being those ``order`` of batch, sequence, head and element."""
        axes, scale = tuple(range(4)), 1.0
        while True:
            node = self.node(value, "Transpose")
            found = self.scaled(value)
            if node is not None and node.inputs[0] is not None:
                moved = node.attributes.get_ints("perm", (3, 2, 1, 0))
                if len(moved) != 4:
                    return None
                axes, value = tuple(moved[axis] for axis in axes), node.inputs[0]
            elif found is not None and self._rank(found[0]) == 4:
                value, scale = found[0], scale * found[1]
            else:
                break
        whole = self._cut(value, scale) if axes == tuple(order) else None
        return whole or self._part(value, axes, tuple(order), scale)

    def _rank(self, value: ir.Value) -> int | None:
        shape = self.shapes.of(value)
        return None if shape is None else len(shape)

    def _cut(self, value: ir.Value, scale: float) -> Heads | None:
        """A Reshape that does nothing but cut the last axis into heads, or into parts of heads."""
        node = self.node(value, "Reshape")
        source = None if node is None else node.inputs[0]
        before, after = (None if one is None else self.shapes.of(one) for one in (source, value))
        if source is None or before is None or after is None or len(before) != 3 or len(after) not in (4, 5):
            return None
        cut = [size for size in after[2:] if isinstance(size, int)]
        # The last axis is the same, and one of the first two: then the other is, too.
        same = any(one is not None and one == other for one, other in zip(before[:2], after[:2], strict=True))
        if len(cut) != len(after) - 2 or prod(cut) != before[2] or not same:
            return None
        parts = cut[0] if len(cut) == 3 else 1
        return Heads(source, before[0], before[1], cut[-2], cut[-1], scale, 0, parts)

    def _part(self, value: ir.Value, axes: tuple[int, ...], order: tuple[int, ...], scale: float) -> Heads | None:
        """One of several that a Reshape has cut out of one value together, before a Gather or a Split takes it."""
        taken = self._taken(value)
        if taken is None:
            return None
        whole, index, at = taken
        node = self.node(whole, "Transpose")
        moved = tuple(range(5)) if node is None else tuple(node.attributes.get_ints("perm", (4, 3, 2, 1, 0)))
        source = whole if node is None else node.inputs[0]
        if source is None or len(moved) != 5 or moved[at] != PART:
            return None
        left = [axis - (axis > PART) for position, axis in enumerate(moved) if position != at]
        found = self._cut(source, scale) if tuple(left[axis] for axis in axes) == order else None
        if found is None or not 0 <= index < found.parts:
            return None
        return Heads(found.source, found.batch, found.sequence, found.count, found.size, scale, index, found.parts)

    def _taken(self, value: ir.Value) -> tuple[ir.Value, int, int] | None:
        """The value of rank 5 of which ``value`` is an element along an axis, its index, and the axis."""
        gather, squeeze = self.node(value, "Gather"), self.node(value, "Squeeze")
        if gather is not None and gather.inputs[0] is not None:
            index, whole = self.integers(gather.inputs[1]), gather.inputs[0]
            shape, axis = self.shapes.of(whole), gather.attributes.get_int("axis", 0)
            scalar = gather.inputs[1] is not None and self._rank(gather.inputs[1]) == 0
            if shape is None or len(shape) != 5 or index is None or not scalar or not -5 <= axis < 5:
                return None
            size = shape[axis]
            return (whole, index[0] % size, axis % 5) if isinstance(size, int) and -size <= index[0] < size else None
        piece = None if squeeze is None else squeeze.inputs[0]
        split = self.node(piece, "Split")
        if squeeze is None or piece is None or split is None or split.inputs[0] is None:
            return None
        shape, axis = self.shapes.of(split.inputs[0]), split.attributes.get_int("axis", 0)
        # As many pieces as elements: each is one of them.
        if shape is None or len(shape) != 5 or not -5 <= axis < 5 or shape[axis] != len(split.outputs):
            return None
        each = (self.shapes.of(output) for output in split.outputs)
        alone = all(one is not None and one[axis] == 1 for one in each)
        axes = squeeze.attributes.get_ints("axes", ()) or self.integers((*squeeze.inputs, None)[1])
        if not alone or axes is None or [one % 5 for one in axes] != [axis % 5]:
            return None
        return split.inputs[0], split.outputs.index(piece), axis % 5
