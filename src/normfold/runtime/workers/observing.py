"""What is kept of the values of a model while data stream through it: constant memory, however many samples.

Of every value: its least and greatest element, and, of many runs, a histogram over a part of its elements and, by
channel, the mean and the mean square.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

BINS: Final = 8192
"""Of a histogram, which reaches from ``-reach`` to ``reach``."""
SAMPLED: Final = 1 << 15
"""Elements of one value and one run that go into its histogram, at most."""
CLOSELY: Final = 16
"""Runs of which everything is kept; the ends are kept of all."""
SELDOM: Final = 4
"""Of the others one in so many is looked at closely, which is cheaper than running the model is."""
LEAST: Final = 2.0**-60
"""Reach of the histogram of zeros."""


@dataclass
class Observed:
    """The statistics of one value."""

    axis: int | None
    """Of the channels, negative; None: by channel nothing is kept."""
    low: float = np.inf
    high: float = -np.inf
    reach: float = LEAST
    counts: Array = field(default_factory=lambda: np.zeros(BINS, np.int64))
    elements: int = 0
    """By channel."""
    total: Array | None = None
    squares: Array | None = None
    finite: bool = True

    def add(self, values: Array, turn: int) -> None:
        """Take in ``values``; ``turn`` is the number of the run, which decides the elements of the histogram."""
        if not values.size:
            return
        low, high = float(values.min()), float(values.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            self.finite = False
            return
        self.low, self.high = min(self.low, low), max(self.high, high)
        if turn >= CLOSELY and turn % SELDOM:
            return
        self._count(values.reshape(-1), turn)
        if self.axis is not None and values.ndim >= -self.axis:
            self._sum(values, self.axis)

    def _count(self, flat: Array, turn: int) -> None:
        stride = -(-flat.size // SAMPLED)
        part = flat[turn % stride :: stride]
        largest = max(abs(self.low), abs(self.high))
        while self.reach <= largest:
            pairs = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts = np.zeros(BINS, np.int64)
            self.counts[BINS // 4 : 3 * BINS // 4] = pairs
            self.reach *= 2
        bins = ((part * np.float64(1 / self.reach) + 1.0) * (BINS / 2)).astype(np.int64)
        self.counts += np.bincount(bins.clip(0, BINS - 1), minlength=BINS)

    def _sum(self, values: Array, axis: int) -> None:
        channels = values.shape[axis]
        # Channels between the samples and the positions are summed where they are; others move to the end.
        inner = values.ndim > 2 and axis == 1 - values.ndim
        flat = (
            values.reshape(len(values), channels, -1) if inner else np.moveaxis(values, axis, -1).reshape(-1, channels)
        )
        total = flat.sum(axis=2).sum(axis=0, dtype=np.float64) if inner else flat.sum(axis=0, dtype=np.float64)
        squares = np.einsum("ncs,ncs->c" if inner else "nc,nc->c", flat, flat)
        self.elements += values.size // channels
        self.total = total if self.total is None else self.total + total
        self.squares = squares.astype(np.float64) if self.squares is None else self.squares + squares

    def arrays(self) -> dict[str, Array]:
        """All of it, as arrays to be written."""
        extent = np.array([self.low, self.high, self.reach, self.elements, float(self.finite)], np.float64)
        none = np.zeros(0)
        return {
            "extent": extent,
            "counts": self.counts,
            "total": none if self.total is None else self.total,
            "squares": none if self.squares is None else self.squares,
        }
