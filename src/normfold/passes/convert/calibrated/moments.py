"""First and second moments of a value's channels, sample by sample, gathered in one pass over a stream."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from normfold.core.algebra.affine import Array

POSITIONS = 8
"""Positions of each sample that are kept where a norm's statistics are those of one position."""


@dataclass(frozen=True, eq=False, slots=True)
class SampleMoments:
    """``first`` and ``second`` moments about zero, ``[rows, channels]``, float64.

    A row is what shares a norm's statistics: a sample with all its positions, or one position.
    """

    first: Array
    second: Array

    @property
    def mean(self) -> Array:
        """Of each channel, over all rows."""
        return np.asarray(self.first.mean(0))

    @property
    def variance(self) -> Array:
        """Of each channel over the whole population: not the mean of the rows' variances, and not Bessel's."""
        return np.asarray(np.maximum(self.second.mean(0) - self.mean**2, 0.0))

    def standardised(self, mean: Array, deviation: Array) -> SampleMoments:
        """Those of ``(x - mean) / deviation``."""
        first = (self.first - mean) / deviation
        second = (self.second - 2.0 * mean * self.first + mean**2) / deviation**2
        return SampleMoments(first, np.maximum(second, first**2))

    def rows(self, chosen: slice | NDArray[np.intp]) -> SampleMoments:
        """Those of some rows."""
        return SampleMoments(self.first[chosen], self.second[chosen])


@dataclass(slots=True)
class Gatherer:
    """Gathers the moments of one value, batch by batch; the values themselves are not kept.

    ``axis`` (negative) is that of the channels. With ``per_position``, rows are positions: a few of each sample, drawn
    with ``seed``.
    """

    axis: int
    per_position: bool = False
    seed: int = 0
    _first: list[Array] = field(default_factory=list)
    _second: list[Array] = field(default_factory=list)
    _generator: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self._generator = np.random.default_rng(self.seed)

    def add(self, batch: NDArray[Any]) -> None:
        """Take in ``batch``, whose first axis counts samples."""
        last = np.moveaxis(batch, self.axis, -1)
        samples = last.reshape(len(last), -1, last.shape[-1])
        if self.per_position:
            self._add_positions(samples)
            return
        # Squares about a value near the mean keep their digits where the mean is large.
        about = samples.reshape(-1, samples.shape[-1])[:1]
        centred = samples - about
        first = centred.mean(1, dtype=np.float64)
        second = np.einsum("npc,npc->nc", centred, centred, dtype=np.float64) / samples.shape[1]
        self._first.append(first + about)
        self._second.append(second + 2.0 * about * first + np.asarray(about, np.float64) ** 2)

    def _add_positions(self, samples: NDArray[Any]) -> None:
        count, positions, _ = samples.shape
        taken = min(POSITIONS, positions)
        where = self._generator.integers(0, positions, (count, taken))
        rows = np.take_along_axis(samples, where[:, :, None], 1).reshape(count * taken, -1).astype(np.float64)
        self._first.append(rows)
        self._second.append(rows**2)

    def take_over(self, other: Gatherer) -> None:
        """Know what ``other``, of the same value, has taken in."""
        self._first, self._second = other._first, other._second

    def moments(self) -> SampleMoments:
        """Those of everything taken in."""
        return SampleMoments(np.concatenate(self._first), np.concatenate(self._second))
