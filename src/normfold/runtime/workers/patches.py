"""Second moments of what the outputs of a linear operation are made of: sums over a sample of its windows.

However many samples stream by, what is kept has the size of a window squared, and each run takes a moment: some windows
are drawn from it, until there are several for each element of a window.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

DRAWN: Final = 256
"""Windows of one run, at most."""
ENOUGH: Final = 8
"""Windows for each of their elements, after which no more are drawn."""


@dataclass
class Patches:
    """The windows of one value. ``kernel`` and what follows are empty for a product over the last axis."""

    groups: int
    kernel: list[int]
    strides: list[int]
    dilations: list[int]
    begins: list[int]
    ends: list[int]
    rows: int = 0
    total: Array = field(default_factory=lambda: np.zeros(0))
    """``[groups, elements]``."""
    products: Array = field(default_factory=lambda: np.zeros(0))
    """``[groups, elements, elements]``."""

    def add(self, values: Array, turn: int) -> None:
        """Take in some windows of ``values``, which ``turn``, the number of the run, decides."""
        if not values.size or self.rows > ENOUGH * self.total.shape[-1] > 0:
            return
        draw = np.random.default_rng(turn)
        drawn = self._windows(values, draw) if self.kernel else _rows(values, draw)
        if not np.isfinite(drawn).all():
            return
        apart = drawn.reshape(len(drawn), self.groups, -1).transpose(1, 0, 2)
        products = np.matmul(apart.transpose(0, 2, 1), apart).astype(np.float64)
        total = apart.sum(axis=1, dtype=np.float64)
        self.total = self.total + total if self.rows else total
        self.products = self.products + products if self.rows else products
        self.rows += len(drawn)

    def _windows(self, values: Array, draw: np.random.Generator) -> Array:
        """Windows ``[drawn, channels, taps]``, elements outside being zero."""
        sizes = values.shape[2:]
        reach = [d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]
        padded = [size + b + e for size, b, e in zip(sizes, self.begins, self.ends, strict=True)]
        counts = [(size - r) // s + 1 for size, r, s in zip(padded, reach, self.strides, strict=True)]
        sample = draw.integers(0, len(values), DRAWN)
        # Axes of the taps stand behind that of the windows, one for each of the kernel's.
        index: list[Array] = [sample.reshape(-1, *[1] * len(sizes))]
        inside = np.ones((DRAWN, *self.kernel), bool)
        for axis, size in enumerate(sizes):
            first = draw.integers(0, counts[axis], DRAWN) * self.strides[axis] - self.begins[axis]
            taps = np.arange(self.kernel[axis]) * self.dilations[axis]
            places = (first[:, None] + taps).reshape(
                DRAWN, *[self.kernel[axis] if k == axis else 1 for k in range(len(sizes))]
            )
            inside &= (places >= 0) & (places < size)
            index.append(places.clip(0, size - 1))
        places_of: tuple[Any, ...] = (index[0], slice(None), *index[1:])
        found = values[places_of]
        found = np.where(inside[..., None], found, 0).reshape(DRAWN, -1, values.shape[1])
        return np.asarray(found.transpose(0, 2, 1), np.float32)

    def arrays(self) -> dict[str, Array]:
        """All of it, as arrays to be written."""
        return {"rows": np.array([self.rows]), "sums": self.total, "products": self.products}


def _rows(values: Array, draw: np.random.Generator) -> Array:
    flat = values.reshape(-1, values.shape[-1])
    return np.asarray(flat[draw.integers(0, len(flat), DRAWN)], np.float32)
