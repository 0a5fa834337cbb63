"""How per-channel constants travel through operations that only move elements.

A move knows how an array that is right-aligned with a value looks after the operation (``forward``)
and, for a value after it, how it looked before (``backward``). Both give ``None`` where the array
cannot be carried: the operation mixes the channels, or a dimension that matters is unknown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Final, Protocol

import numpy as np

from normfold.core.algebra.affine import Affine, Array, trim

Dim = int | str | None
"""A dimension: its size, a name for an unknown size, or nothing known at all."""
MOST: Final = 1 << 26
"""Numbers that a constant may be written out to; a file can state any size."""


class Move(Protocol):
    """One operation that rearranges elements without changing them."""

    def forward(self, array: Array) -> Array | None:
        """``array``, right-aligned with the input, as it is right-aligned with the output."""
        ...

    def backward(self, array: Array, neutral: float, /) -> Array | None:
        """``array``, right-aligned with the output, as it is right-aligned with the input.

        Elements that do not reach the output get ``neutral``.
        """
        ...


def is_identity(move: Move) -> bool:
    """Whether ``move`` is known to leave every element where it is, in the same shape."""
    match move:
        case Permute(order):
            return order == tuple(range(len(order)))
        case Regroup(runs):
            return all(source == target for source, target in runs)
        case Take(size=size, indices=indices):
            return indices == range(size)
        case Shuffle() as shuffle:
            return shuffle.identity
        case Chain(moves):
            return all(map(is_identity, moves))
        case _:
            return False


def carry(move: Move, affine: Affine, *, backward: bool) -> Affine | None:
    """``affine`` on the other side of ``move``."""
    if backward:
        scale, shift = move.backward(affine.scale, 1.0), move.backward(affine.shift, 0.0)
    else:
        scale, shift = move.forward(affine.scale), move.forward(affine.shift)
    return None if scale is None or shift is None else Affine(scale, shift)


def followed(move: Move, axis: int, size: int, *, backward: bool) -> int | None:
    """Where ``axis`` (negative), of ``size``, is on the other side of ``move``.

    ``None`` where its elements are not, all and in the same order, the elements of one axis there.
    """
    marks = np.arange(1.0, size + 1)
    here = marks.reshape(size, *[1] * (-axis - 1))
    there = move.backward(here, 0.0) if backward else move.forward(here)
    for k in range(-1, -1 - (0 if there is None or size == 1 else there.ndim), -1):
        along = marks.reshape(size, *[1] * (-k - 1))
        # Zeros are elements, of any channel, that the move does not take.
        if there is not None and there.shape[k] == size and bool(((there == along) | (there == 0)).all()):
            return k
    return None


@dataclass(frozen=True, slots=True)
class Permute:
    """Transpose: output axis ``k`` is input axis ``order[k]``. The empty order is the identity for any rank."""

    order: tuple[int, ...] = ()

    def forward(self, array: Array) -> Array | None:
        """Transpose the array, too."""
        return self._apply(array, self.order)

    def backward(self, array: Array, _neutral: float = 1.0, /) -> Array | None:
        """Transpose the array back."""
        return self._apply(array, tuple(int(k) for k in np.argsort(self.order)))

    def _apply(self, array: Array, order: tuple[int, ...]) -> Array | None:
        if not order:
            return array
        if array.ndim > len(order):
            return None
        return trim(array.reshape((1,) * (len(order) - array.ndim) + array.shape).transpose(order))


@dataclass(frozen=True, slots=True)
class Regroup:
    """Reshape, Flatten, Squeeze, Unsqueeze: runs of axes are joined and split, elements keep their order.

    ``runs`` pairs each smallest run of input dimensions with the run of output dimensions that holds the
    same elements. Channels are followed exactly: a flatten repeats each channel for every position.
    """

    runs: tuple[tuple[tuple[Dim, ...], tuple[Dim, ...]], ...]

    @staticmethod
    def between(source: Sequence[Dim], target: Sequence[Dim]) -> Regroup:
        """The regrouping of ``source`` dimensions into ``target`` dimensions of as many elements.

        Runs are cut wherever the elements to the left, or to the right, are known to be equally many.
        """
        source, target = _named(source, "i"), _named(target, "o")
        starts, stops = _products(source), _products(target)
        ends_s, ends_t = _products(source[::-1])[::-1], _products(target[::-1])[::-1]
        cuts = [(0, 0)]
        for i in range(len(source) + 1):
            for j in range(len(target) + 1):
                last_i, last_j = cuts[-1]
                equal = starts[i] == stops[j] or ends_s[i] == ends_t[j]
                if equal and i >= last_i and j >= last_j and (i, j) != (last_i, last_j):
                    cuts.append((i, j))
        if cuts[-1] != (len(source), len(target)):
            cuts.append((len(source), len(target)))
        runs = tuple((source[i:k], target[j:m]) for (i, j), (k, m) in pairwise(cuts))
        return Regroup(runs)

    def forward(self, array: Array) -> Array | None:
        """Regroup the array's axes like the value's."""
        return _regroup(array, self.runs)

    def backward(self, array: Array, _neutral: float = 1.0, /) -> Array | None:
        """Regroup the array's axes back."""
        return _regroup(array, tuple((target, source) for source, target in self.runs))


@dataclass(frozen=True, slots=True)
class Take:
    """The output holds ``indices`` of the input's ``axis`` (negative) of ``size``; ``indices`` runs upwards.

    ``shared`` says that others read what is not taken (Split, Concat), so that it must stay as it is; nobody reads
    what a Slice leaves.
    """

    axis: int
    size: int
    indices: range
    shared: bool = True

    def forward(self, array: Array) -> Array | None:
        """The taken channels' constants; None where nothing is taken."""
        if not self.indices:
            return None
        if array.ndim < -self.axis or array.shape[self.axis] == 1:
            return array
        if array.shape[self.axis] != self.size:
            return None  # the model contradicts itself
        return trim(array[self._taken(array.ndim)])

    def backward(self, array: Array, neutral: float, /) -> Array | None:
        """The whole axis, ``neutral`` for what is not taken; None where nothing is taken."""
        if not self.indices:
            return None
        rank = max(array.ndim, -self.axis)
        full = array.reshape((1,) * (rank - array.ndim) + array.shape)
        if full.shape[self.axis] == 1 and not self.shared:
            return array
        shape = list(full.shape)
        shape[self.axis] = self.size
        if full.shape[self.axis] not in (1, len(self.indices)) or prod(shape) > MOST:
            return None
        out = np.full(shape, neutral)
        out[self._taken(rank)] = full
        return trim(out)

    def _taken(self, rank: int) -> tuple[slice, ...]:
        """Where the taken elements stand in an array."""
        whole = [slice(None)] * rank
        whole[self.axis] = slice(self.indices.start, self.indices.stop, self.indices.step)
        return tuple(whole)


@dataclass(frozen=True, slots=True)
class Shuffle:
    """Output element ``k`` along ``axis`` (negative) is input element ``order[k]``: each is taken once."""

    axis: int
    order: tuple[int, ...]

    @property
    def identity(self) -> bool:
        """Whether each element stays where it is."""
        return self.order == tuple(range(len(self.order)))

    @property
    def invertible(self) -> bool:
        """Always."""
        return True

    @property
    def says(self) -> str:
        """What an operation that takes the shuffle takes."""
        return "its channels in another order"

    def inverse(self) -> Shuffle:
        """The shuffle that puts everything back."""
        return Shuffle(self.axis, tuple(int(k) for k in np.argsort(self.order)))

    def after(self, first: Shuffle) -> Shuffle:
        """The shuffle that does ``first``, then this one; both along the same axis."""
        if first.axis != self.axis:
            raise ValueError(f"{first} is along another axis than {self}")
        return Shuffle(self.axis, tuple(first.order[k] for k in self.order))

    def forward(self, array: Array) -> Array | None:
        """The constants in the new order."""
        if array.ndim < -self.axis or array.shape[self.axis] == 1:
            return array
        return trim(np.take(array, self.order, axis=self.axis))

    def backward(self, array: Array, _neutral: float = 1.0, /) -> Array | None:
        """The constants in the old order."""
        return self.inverse().forward(array)


@dataclass(frozen=True, slots=True)
class Crop:
    """A Slice along ``axes`` (negative) of unknown size: passes constants that do not vary along them."""

    axes: tuple[int, ...]

    def forward(self, array: Array) -> Array | None:
        """The same constants."""
        return array if all(array.ndim < -axis or array.shape[axis] == 1 for axis in self.axes) else None

    def backward(self, array: Array, _neutral: float, /) -> Array | None:
        """The same constants."""
        return self.forward(array)


@dataclass(frozen=True, slots=True)
class Chain:
    """Several moves in a row."""

    moves: tuple[Move, ...]

    def forward(self, array: Array) -> Array | None:
        """Each move's forward, first to last."""
        out: Array | None = array
        for move in self.moves:
            out = None if out is None else move.forward(out)
        return out

    def backward(self, array: Array, neutral: float, /) -> Array | None:
        """Each move's backward, last to first."""
        out: Array | None = array
        for move in reversed(self.moves):
            out = None if out is None else move.backward(out, neutral)
        return out


def _named(dims: Sequence[Dim], side: str) -> tuple[Dim, ...]:
    return tuple(f"?{side}{k}" if dim is None else dim for k, dim in enumerate(dims))


def _products(dims: Sequence[Dim]) -> list[tuple[int, frozenset[tuple[str, int]]]]:
    """Element counts of every prefix of ``dims``: a number and the multiset of unknown names."""
    out, number, names = [], 1, Counter[str]()
    out.append((number, frozenset(names.items())))
    for dim in dims:
        if isinstance(dim, int):
            number *= dim
        elif dim is not None:
            names[dim] += 1
        out.append((number, frozenset(names.items())))
    return out


def _regroup(array: Array, runs: Sequence[tuple[tuple[Dim, ...], tuple[Dim, ...]]]) -> Array | None:
    rank = sum(len(source) for source, _ in runs)
    if array.ndim > rank:
        return None
    array = array.reshape((1,) * (rank - array.ndim) + array.shape)
    shape: list[int] = []
    full: list[int] = []
    axis = 0
    for source, target in runs:
        sizes = array.shape[axis : axis + len(source)]
        axis += len(source)
        if all(size == 1 for size in sizes):
            full += sizes
            shape += [1] * len(target)
            continue
        significant = [dim for dim in target if dim != 1]
        if [dim for dim in source if dim != 1] == significant and len(significant) == 1:
            full += sizes
            size = prod(sizes)
            shape += [1 if dim == 1 else size for dim in target]
            continue
        if not all(isinstance(dim, int) for dim in (*source, *target)):
            return None
        if prod(dim for dim in source if isinstance(dim, int)) != prod(dim for dim in target if isinstance(dim, int)):
            return None
        full += [dim for dim in source if isinstance(dim, int)]
        shape += [dim for dim in target if isinstance(dim, int)]
    if prod(full) > MOST or any(own not in (1, size) for own, size in zip(array.shape, full, strict=True)):
        return None  # a constant that does not belong to a value of this shape: the model contradicts itself
    return trim(_without_repeats(np.broadcast_to(array, full).reshape(shape)))


def _without_repeats(array: Array) -> Array:
    """``array`` without the axes along which it repeats itself: what a flatten repeats, its reverse takes back."""
    repeating = [
        axis
        for axis, size in enumerate(array.shape)
        if size > 1 and bool((array == array[(slice(None),) * axis + (slice(1),)]).all())
    ]
    if len(repeating) == sum(size > 1 for size in array.shape):
        return array  # equal in all channels, which it still counts
    for axis in repeating:
        array = array[(slice(None),) * axis + (slice(1),)]
    return array
