"""The weight of a linear operation in one canonical layout, with its pending scales.

Conv, ConvTranspose, Gemm and MatMul store their weights in different layouts. Here each is held as
``[group, out/group, in/group, *taps]``: the native layout dies at the border of this file.

Scales are kept apart from the base until the weight is written. Several norms that reach one weight
therefore round once, and a weight of gigabytes is never copied to be planned.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from normfold.core.algebra.affine import Array
from normfold.core.algebra.steps import rounded_away

CHUNK_BYTES = 1 << 20
"""Bytes of float64 held at once while a weight is written or summed: a core's second-level cache."""


class Source(Protocol):
    """A tensor that can be read when it is needed."""

    def numpy(self) -> NDArray[np.generic]:
        """The values, in the native shape."""
        ...


@dataclass(frozen=True, eq=False, slots=True)
class Dense:
    """Values that are already there."""

    values: Array

    def numpy(self) -> Array:
        """The values."""
        return self.values


@dataclass(frozen=True, eq=False, slots=True)
class Weight:
    """``base`` seen as ``[group, out/group, in/group, *taps]``, times ``rows`` and ``columns``.

    ``split`` is the native array's shape with its group axis split off: ``(G, O/G, I/G, *taps)`` for
    order "goi" (Conv, Gemm with transB=1), ``(G, I/G, O/G, *taps)`` for "gio" (ConvTranspose, MatMul).
    ``rows`` has one factor for each output channel (``[out]``), ``columns`` one for each input channel
    (``[in]``), both counted through the groups.
    """

    base: Source
    split: tuple[int, ...]
    order: Literal["goi", "gio"]
    rows: Array | None = None
    columns: Array | None = None

    @property
    def groups(self) -> int:
        """Number of groups."""
        return self.split[0]

    @property
    def out_per_group(self) -> int:
        """Output channels in a group."""
        return self.split[self.order.index("o")]

    @property
    def in_per_group(self) -> int:
        """Input channels in a group."""
        return self.split[self.order.index("i")]

    @property
    def out_channels(self) -> int:
        """Output channels over all groups."""
        return self.groups * self.out_per_group

    @property
    def in_channels(self) -> int:
        """Input channels over all groups."""
        return self.groups * self.in_per_group

    @property
    def taps(self) -> tuple[int, ...]:
        """Kernel shape; empty for a matrix."""
        return self.split[3:]

    @property
    def pending(self) -> bool:
        """Whether a scale waits to be applied."""
        return self.rows is not None or self.columns is not None

    @property
    def gain(self) -> float:
        """How many times larger than the base the pending scales make the weight at most."""
        pending = (scale for scale in (self.rows, self.columns) if scale is not None)
        return prod(float(np.abs(scale).max(initial=0.0)) for scale in pending)

    @property
    def drop(self) -> float:
        """How many times smaller than the base the pending scales make the weight, at the most and but for zeros."""
        pending = (np.abs(scale[scale != 0]) for scale in (self.rows, self.columns) if scale is not None)
        return prod(float(scale.min(initial=1.0)) for scale in pending)

    def scale_rows(self, factor: Array) -> Weight:
        """This weight with output channel ``o`` multiplied by ``factor[o]``; ``factor`` is [out] or []."""
        return replace(self, rows=_times(self.rows, factor, self.out_channels))

    def scale_columns(self, factor: Array) -> Weight:
        """This weight with input channel ``i`` multiplied by ``factor[i]``; ``factor`` is [in] or []."""
        return replace(self, columns=_times(self.columns, factor, self.in_channels))

    def take_columns(self, order: NDArray[np.intp]) -> Weight | None:
        """This weight with input channel ``order[i]`` where channel ``i`` was; ``None`` if one leaves its group."""
        groups, places = np.divmod(order.reshape(self.groups, self.in_per_group), self.in_per_group)
        if bool((groups != np.arange(self.groups)[:, None]).any()):
            return None
        columns = None if self.columns is None else self.columns[order]
        return replace(self, base=_Reordered(self.base, self.split, self.order.index("i"), places), columns=columns)

    def centre_rows(self) -> Weight:
        """This weight less, at each input and tap of a group, its mean over the output channels."""
        return replace(self, base=_Centred(self), rows=None, columns=None)

    def canonical(self) -> Array:
        """The whole weight as float64 ``[group, out/group, in/group, *taps]``."""
        out = np.concatenate([block for _, block in self._blocks()], axis=1)
        return np.swapaxes(out, 1, 2) if self.order == "gio" else out

    def contract(self, vector: Array) -> Array:
        """``sum over inputs and taps of W[o, i, taps] * vector[i]``: [in] or [] to [out]."""
        full = np.broadcast_to(vector, (self.in_channels,)).reshape(self.groups, self.in_per_group)
        out = np.zeros((self.groups, self.out_per_group))
        if not full.any():
            return out.reshape(-1)
        for start, block in self._blocks():
            sums = block.sum(axis=tuple(range(3, block.ndim)))
            stop = start + block.shape[1]
            if self.order == "goi":
                out[:, start:stop] = np.einsum("goi,gi->go", sums, full)
            else:
                out += np.einsum("gio,gi->go", sums, full[:, start:stop])
        return out.reshape(-1)

    def magnitude(self) -> float:
        """Largest absolute value; 0 for an empty weight."""
        return max((float(np.abs(block).max(initial=0.0)) for _, block in self._blocks()), default=0.0)

    def lost(self, step: float) -> tuple[Array, Array]:
        """What rounding to multiples of ``step`` loses of each output channel, and the channel's size: ``[out]`` each.

        Both are Euclidean, and as if the pending scales of the inputs had not been applied: an input that is scaled
        down is one that is large.
        """
        unit = np.ones((1, 1, 1)) if self.columns is None else np.abs(self._factors()[-1])
        unit = np.where(unit == 0, np.inf, unit)
        squares = np.zeros((2, self.groups, self.out_per_group))
        for start, block in self._blocks():
            stop = start + block.shape[1]
            parts = np.stack((rounded_away(block, step), block))
            parts /= unit if unit.shape[1] == 1 else unit[:, start:stop]
            sums = np.square(parts).sum(axis=tuple(range(4, parts.ndim)))
            if self.order == "goi":
                squares[:, :, start:stop] = sums.sum(axis=3)
            else:
                squares += sums.sum(axis=2)
        lost, size = np.sqrt(squares).reshape(2, -1)
        return lost, size

    def native(self) -> Array:
        """The whole weight as float64 in the order of ``split``."""
        blocks = [block for _, block in self._blocks()]
        return blocks[0] if len(blocks) == 1 else np.concatenate(blocks, axis=1)

    def write_chunks(self, dtype: np.dtype[np.generic]) -> Iterator[NDArray[np.generic]]:
        """The weight in native element order, cast once to ``dtype``, piece by piece."""
        whole = self.groups == 1 or prod(self.split) * 8 <= CHUNK_BYTES
        for group in [None] if whole else range(self.groups):
            for _, block in self._blocks(group):
                yield np.ascontiguousarray(block.astype(dtype))

    def _blocks(self, group: int | None = None) -> Iterator[tuple[int, Array]]:
        """Slices along the second axis of ``split``, scaled, with the index at which each starts."""
        base = self.base.numpy().reshape(self.split)
        scale = self._factors()
        if group is not None:
            base = base[group : group + 1]
            scale = [f if f.shape[0] == 1 else f[group : group + 1] for f in scale]
        width = max(1, CHUNK_BYTES // 8 // max(1, base.size // max(1, base.shape[1])))
        for start in range(0, max(1, base.shape[1]), width):
            block = base[:, start : start + width].astype(np.float64)
            for factor in scale:
                block *= factor if factor.shape[1] == 1 else factor[:, start : start + width]
            yield start, block

    def _factors(self) -> list[Array]:
        tail = (1,) * len(self.taps)
        out = []
        if self.rows is not None:
            shape = (self.out_per_group, 1) if self.order == "goi" else (1, self.out_per_group)
            out.append(self.rows.reshape(self.groups, *shape, *tail))
        if self.columns is not None:
            shape = (1, self.in_per_group) if self.order == "goi" else (self.in_per_group, 1)
            out.append(self.columns.reshape(self.groups, *shape, *tail))
        return out


@dataclass(frozen=True, eq=False, slots=True)
class _Reordered:
    """``base`` with the input channels of each group, along ``axis`` of ``split``, in the order of ``places``."""

    base: Source
    split: tuple[int, ...]
    axis: int
    places: NDArray[np.intp]

    def numpy(self) -> NDArray[np.generic]:
        """The values, in the shape of ``split``."""
        shape = [1] * len(self.split)
        shape[0], shape[self.axis] = self.places.shape
        return np.take_along_axis(self.base.numpy().reshape(self.split), self.places.reshape(shape), axis=self.axis)


@dataclass(frozen=True, eq=False, slots=True)
class _Centred:
    """``weight`` less its mean over the output channels of each group."""

    weight: Weight

    def numpy(self) -> Array:
        """The values, in the shape of the weight's ``split``."""
        native = self.weight.native()
        centred: Array = native - native.mean(axis=self.weight.order.index("o"), keepdims=True)
        return centred


def _times(pending: Array | None, factor: Array, size: int) -> Array:
    full = np.broadcast_to(np.asarray(factor, dtype=np.float64), (size,))
    return full.copy() if pending is None else pending * full


def split_shape(native: tuple[int, ...], groups: int, *, matrix: bool = False) -> tuple[int, ...]:
    """``native`` with the group axis split off its first axis, or its batch axes joined for a ``matrix``."""
    if matrix:
        return (prod(native[:-2]), *native[-2:])
    return (groups, native[0] // groups, *native[1:])
