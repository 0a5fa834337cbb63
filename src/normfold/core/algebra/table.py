"""A table read by index: rows under one pending affine map."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod

import numpy as np
from numpy.typing import NDArray

from normfold.core.algebra.affine import Affine, Array
from normfold.core.algebra.weight import CHUNK_BYTES, Source


@dataclass(frozen=True, eq=False, slots=True)
class Table:
    """``base`` of ``shape`` ``[rows, *sizes]``, every row under ``affine``, right-aligned with it.

    The map is kept apart until the table is written: several that reach it round once, and it is never copied to be
    planned.
    """

    base: Source
    shape: tuple[int, ...]
    affine: Affine

    @property
    def sizes(self) -> tuple[int, ...]:
        """The shape of one row."""
        return self.shape[1:]

    def mapped(self, affine: Affine) -> Table:
        """The table of the mapped rows; ``affine`` broadcasts into a row."""
        return replace(self, affine=affine.after(self.affine))

    def centre_rows(self) -> Table:
        """The table of rows less their mean, along the last axis."""
        return replace(self, base=_Centred(self), affine=Affine.of())

    def magnitude(self) -> float:
        """Largest absolute value; 0 for an empty table."""
        return max((float(np.abs(block).max(initial=0.0)) for block in self._blocks()), default=0.0)

    def native(self) -> Array:
        """The whole table in float64."""
        return np.concatenate(list(self._blocks()))

    def write_chunks(self, dtype: np.dtype[np.generic]) -> Iterator[NDArray[np.generic]]:
        """The rows in order, cast once to ``dtype``, some at a time."""
        return (np.ascontiguousarray(block.astype(dtype)) for block in self._blocks())

    def _blocks(self) -> Iterator[Array]:
        base = self.base.numpy().reshape(self.shape)
        height = max(1, CHUNK_BYTES // 8 // max(1, prod(self.sizes)))
        for start in range(0, max(1, self.shape[0]), height):
            rows = base[start : start + height].astype(np.float64)
            yield np.asarray(self.affine.scale * rows + self.affine.shift)


@dataclass(frozen=True, eq=False, slots=True)
class _Centred:
    """``table``, each row less its mean along the last axis."""

    table: Table

    def numpy(self) -> Array:
        """The values, in the shape of the table."""
        native = self.table.native()
        centred: Array = native - native.mean(axis=-1, keepdims=True)
        return centred
