"""The affine map ``y = scale * x + shift`` that every foldable norm is at inference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def trim(array: ArrayLike) -> Array:
    """``array`` in float64 without its leading axes of size 1.

    Arrays here are broadcast to a value right-aligned, as NumPy and ONNX do, so leading ones say
    nothing; without them, equal maps have equal shapes.
    """
    out = np.asarray(array, dtype=np.float64)
    while out.ndim and out.shape[0] == 1:
        out = out[0]
    return out


@dataclass(frozen=True, eq=False, slots=True)
class Affine:
    """``y = scale * x + shift``, both right-aligned with the value they apply to.

    A BatchNorm over ``[N, C, H, W]`` has arrays of shape ``[C, 1, 1]``; a scalar map has ``[]``.
    """

    scale: Array
    shift: Array

    @staticmethod
    def of(scale: ArrayLike = 1.0, shift: ArrayLike = 0.0) -> Affine:
        """The map with ``scale`` and ``shift``, any broadcastable shapes."""
        return Affine(trim(scale), trim(shift))

    @property
    def shape(self) -> tuple[int, ...]:
        """Broadcast shape of scale and shift."""
        return np.broadcast_shapes(self.scale.shape, self.shift.shape)

    @property
    def finite(self) -> bool:
        """Whether every constant is a number."""
        return bool(np.isfinite(self.scale).all() and np.isfinite(self.shift).all())

    @property
    def scales(self) -> bool:
        """Whether any scale differs from one."""
        return bool((self.scale != 1).any())

    @property
    def shifts(self) -> bool:
        """Whether any shift differs from zero."""
        return bool((self.shift != 0).any())

    @property
    def identity(self) -> bool:
        """Whether nothing is scaled or shifted."""
        return not (self.scales or self.shifts)

    @property
    def invertible(self) -> bool:
        """Whether no scale is zero, or so small that a constant of the inverse is no number."""
        with np.errstate(all="ignore"):
            return bool((self.scale != 0).all()) and self.inverse().finite

    @property
    def says(self) -> str:
        """What an operation that takes the map takes."""
        return "a scale and a shift"

    def fits(self, dims: Sequence[object]) -> bool:
        """Whether the constants belong to a value of ``dims``; one whose size is not known takes any."""
        return all(
            size == 1 or (axis <= len(dims) and (not isinstance(dim := dims[-axis], int) or size == dim))
            for constant in (self.scale, self.shift)
            for axis, size in enumerate(reversed(constant.shape), 1)
        )

    def after(self, first: Affine) -> Affine:
        """The map that applies ``first``, then this one."""
        return Affine.of(self.scale * first.scale, self.scale * first.shift + self.shift)

    def inverse(self) -> Affine:
        """The map that undoes this one; every scale must be non-zero."""
        return Affine.of(1 / self.scale, -self.shift / self.scale)

    def only_scale(self) -> Affine:
        """The same scale without the shift."""
        return Affine.of(self.scale)
