"""How a weight is stored in whole numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from normfold.core.algebra.affine import Array
from normfold.core.algebra.weight import Source

Integers = NDArray[np.int32]


@dataclass(frozen=True, eq=False, slots=True)
class Codes:
    """A weight as ``scale * (code - zero_point)``, both given for each index of the native ``axis``.

    ``scale`` and ``zero_point`` are ``[n]``, with ``n`` the size of ``axis``, which counts the output channels, or
    those of one group where groups share them. ``limits`` are the least and the greatest code that the type has,
    ``normal`` the least and the greatest normal number of the scale's type. ``single`` says that one scale is stored
    for the whole weight, ``per_axis`` that there may be one for each index.
    """

    values: Source
    axis: int
    scale: Array
    zero_point: Integers
    limits: tuple[int, int]
    normal: tuple[float, float]
    single: bool
    per_axis: bool

    def along_axis(self, rows: Array) -> Array | None:
        """One number for each output channel as one for each index of the axis; ``None`` where groups differ."""
        groups = rows.reshape(-1, self.scale.size)
        return groups[0] if bool((groups == groups[:1]).all()) else None

    def whole(self) -> Integers:
        """The codes, channels first: ``[n, ...]``."""
        return np.moveaxis(np.asarray(self.values.numpy()).astype(np.int32), self.axis, 0)

    def numpy(self) -> Array:
        """The weight in float64 and in its native shape."""
        codes = self.whole()
        shape = (-1,) + (1,) * (codes.ndim - 1)
        values = self.scale.reshape(shape) * (codes - self.zero_point.reshape(shape))
        return np.moveaxis(values, 0, self.axis)
