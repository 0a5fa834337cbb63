"""Ranges of values, and the codes that stand for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from normfold.core.algebra.affine import Array

STEPS: Final = 255
"""Of eight bits."""
SIGMAS: Final = 6.0
"""Standard deviations on each side of the mean that a range without data covers."""
SHRINKS: Final = np.linspace(0.3, 1.0, 71)
"""Parts of the full range that are tried for the least mean square error."""
LEAST: Final = 1e-30
"""Least width of a range."""


@dataclass(frozen=True, slots=True)
class Grid:
    """What codes there are."""

    steps: int = STEPS
    """The last code; the first is zero."""
    symmetric: bool = False
    """Whether the code in the middle stands for zero, as some integer kernels need: signed codes are written then."""


BYTES: Final = Grid()
SIGNED: Final = Grid(symmetric=True)
WORDS: Final = Grid((1 << 16) - 1)


@dataclass(frozen=True, slots=True)
class Codes:
    """Unsigned integers: ``value = scale * (code - zero)``."""

    scale: float
    zero: int
    steps: int = STEPS
    """The last code."""

    @staticmethod
    def of(low: float, high: float, grid: Grid = BYTES) -> Codes:
        """Codes that reach from ``low`` to ``high``, and have one for zero."""
        low, high = min(low, 0.0), max(high, 0.0)
        if grid.symmetric:
            middle = (grid.steps + 1) // 2
            return Codes(float(np.float32(max(-low, high, LEAST) / (middle - 1))), middle, grid.steps)
        scale = float(np.float32(max(high - low, LEAST) / grid.steps))
        return Codes(scale, int(np.clip(np.round(-low / scale), 0, grid.steps)), grid.steps)

    @property
    def low(self) -> float:
        """The least value."""
        return -self.scale * self.zero

    @property
    def high(self) -> float:
        """The greatest value."""
        return self.scale * (self.steps - self.zero)

    def code(self, values: Array) -> NDArray[np.uint8 | np.uint16]:
        """The nearest codes; infinities are the first and the last."""
        with np.errstate(over="ignore"):
            counted = np.round(np.clip(values / self.scale, -2.0 * self.steps, 2.0 * self.steps))
        found = np.clip(counted + self.zero, 0, self.steps)
        return found.astype(np.uint8 if self.steps == STEPS else np.uint16)


@dataclass(frozen=True, eq=False)
class Seen:
    """The statistics of a value over the data, as far as they are known."""

    low: float
    high: float
    counts: NDArray[np.int64]
    """A histogram over ``-reach`` to ``reach``; empty where there is none."""
    reach: float
    mean: Array | None = None
    """By channel."""
    square: Array | None = None
    """Mean square by channel."""

    def times(self, factor: float) -> Seen:
        """Those of a multiple by ``factor`` above zero."""
        return Seen(
            self.low * factor,
            self.high * factor,
            self.counts,
            self.reach * factor,
            None if self.mean is None else self.mean * factor,
            None if self.square is None else self.square * factor**2,
        )

    @cached_property
    def centres(self) -> Array:
        """The middle of each bin."""
        bins = len(self.counts)
        return np.asarray((np.arange(bins) + 0.5) * (2 * self.reach / max(bins, 1)) - self.reach, np.float64)


Range = tuple[float, float]
Method = Callable[[Seen], Range]


def min_max(seen: Seen) -> Range:
    """All that was seen."""
    return seen.low, seen.high


def percentile(share: float) -> Method:
    """All but ``1 - share`` of the elements on each side."""

    def chosen(seen: Seen) -> Range:
        total = int(seen.counts.sum())
        if not total:
            return min_max(seen)
        passed = np.cumsum(seen.counts) / total
        first, last = (int(np.searchsorted(passed, part)) for part in (1 - share, share))
        half = seen.reach / len(seen.counts)
        low, high = seen.centres[first] - half, seen.centres[min(last, len(seen.counts) - 1)] + half
        return max(seen.low, float(low)), min(seen.high, float(high))

    return chosen


def least_squares(seen: Seen) -> Range:
    """The part of the range with the least mean square error of rounding and cutting off."""
    if not seen.counts.any():
        return min_max(seen)
    used = seen.counts > 0
    centres, weights = seen.centres[used], seen.counts[used].astype(np.float64)
    centres = np.clip(centres, seen.low, seen.high)
    best, least = (seen.low, seen.high), np.inf
    for part in SHRINKS:
        low, high = min(seen.low * part, 0.0), max(seen.high * part, 0.0)
        step = (high - low) / STEPS
        beyond = centres - np.clip(centres, low, high)
        error = float(weights @ (np.square(beyond) + np.where(beyond == 0, step * step / 12, 0.0)))
        if error < least:
            best, least = (low, high), error
    return best


METHODS: Final[Mapping[str, Method]] = {
    "min-max": min_max,
    "percentile 99.99": percentile(0.9999),
    "percentile 99.999": percentile(0.99999),
    "mse": least_squares,
}
"""Ways to choose ranges, of which the loss of the outputs chooses one."""
