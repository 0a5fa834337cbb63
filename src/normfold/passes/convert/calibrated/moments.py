"""What norms read and make, gathered in one pass over a stream: moments of channels, and some positions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

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


class Watch(Protocol):
    """Takes in what a norm reads, batch by batch, and what it makes of it where that is needed."""

    axis: int

    @property
    def needs_output(self) -> bool:
        """Whether what the norm makes is taken in, too."""
        ...

    @property
    def kind(self) -> str:
        """What is gathered: of the same norm, it need not be gathered twice."""
        ...

    def add(self, batch: NDArray[Any], made: NDArray[Any] | None = None, /) -> None:
        """Take in ``batch``, whose first axis counts samples, and what the norm ``made`` of it."""
        ...

    def take_over(self, other: Watch) -> None:
        """Know what ``other``, of the same kind and norm, has taken in."""
        ...


@dataclass(slots=True)
class Gatherer:
    """Gathers the moments of one value, batch by batch; the values themselves are not kept.

    ``axis`` (negative) is that of the channels. With ``per_position``, rows are positions: a few of each sample, drawn
    with ``seed``. With ``needs_output``, moments are those of what is made, and not of what is read.
    """

    axis: int
    per_position: bool = False
    seed: int = 0
    needs_output: bool = False
    first: list[Array] = field(default_factory=list)
    second: list[Array] = field(default_factory=list)
    _generator: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self._generator = np.random.default_rng(self.seed)

    @property
    def kind(self) -> str:
        """What is gathered: of the same norm, it need not be gathered twice."""
        return f"{'positions' if self.per_position else 'moments'} {'made' if self.needs_output else 'read'}"

    def add(self, batch: NDArray[Any], made: NDArray[Any] | None = None) -> None:
        """Take in ``batch``, whose first axis counts samples, or what was ``made`` of it."""
        samples = _by_sample(batch if made is None else made, self.axis)
        if self.per_position:
            rows = _drawn(samples, _where(samples, self._generator))
            self.first.append(rows)
            self.second.append(rows**2)
            return
        first, second = _moments(samples)
        self.first.append(first)
        self.second.append(second)

    def take_over(self, other: Watch) -> None:
        """Know what ``other``, of the same value, has taken in."""
        if isinstance(other, Gatherer):
            self.first, self.second = other.first, other.second

    def moments(self) -> SampleMoments:
        """Those of everything taken in."""
        return SampleMoments(np.concatenate(self.first), np.concatenate(self.second))


@dataclass(frozen=True, eq=False, slots=True)
class Rows:
    """Some positions of each sample: what a norm reads there, what it makes of it, both ``[rows, channels]``, float64.

    ``first`` and ``second`` are the moments of the whole sample that a row is from.
    """

    x: Array
    y: Array
    first: Array
    second: Array


@dataclass(slots=True)
class Sampler:
    """Gathers `Rows`: a few positions of each sample, drawn with ``seed``; ``axis`` (negative) is that of channels."""

    axis: int
    seed: int = 0
    needs_output: ClassVar[bool] = True
    kind: ClassVar[str] = "rows"
    parts: list[Rows] = field(default_factory=list)
    _generator: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self._generator = np.random.default_rng(self.seed)

    def add(self, batch: NDArray[Any], made: NDArray[Any] | None = None) -> None:
        """Take in ``batch``, whose first axis counts samples, and what the norm ``made`` of it."""
        if made is None:
            raise TypeError("what the norm made is not known")
        samples, results = _by_sample(batch, self.axis), _by_sample(made, self.axis)
        where = _where(samples, self._generator)
        first, second = (np.repeat(one, where.shape[1], 0) for one in _moments(samples))
        self.parts.append(Rows(_drawn(samples, where), _drawn(results, where), first, second))

    def take_over(self, other: Watch) -> None:
        """Know what ``other``, of the same norm, has taken in."""
        if isinstance(other, Sampler):
            self.parts = other.parts

    def rows(self) -> Rows:
        """Everything taken in."""
        names = ("x", "y", "first", "second")
        return Rows(*(np.concatenate([getattr(part, name) for part in self.parts]) for name in names))


def _by_sample(batch: NDArray[Any], axis: int) -> NDArray[Any]:
    """``[samples, positions, channels]``."""
    last = np.moveaxis(batch, axis, -1)
    return last.reshape(len(last), -1, last.shape[-1])


def _where(samples: NDArray[Any], generator: np.random.Generator) -> NDArray[np.int64]:
    """Some positions of each sample."""
    count, positions, _ = samples.shape
    return generator.integers(0, positions, (count, min(POSITIONS, positions)))


def _drawn(samples: NDArray[Any], where: NDArray[np.int64]) -> Array:
    rows = np.take_along_axis(samples, where[:, :, None], 1)
    return np.asarray(rows.reshape(-1, samples.shape[-1]).astype(np.float64))


def _moments(samples: NDArray[Any]) -> tuple[Array, Array]:
    """Moments about zero of each sample's channels, ``[samples, channels]``."""
    # Squares about a value near the mean keep their digits where the mean is large.
    about = samples.reshape(-1, samples.shape[-1])[:1]
    centred = samples - about
    first = centred.mean(1, dtype=np.float64)
    second = np.einsum("npc,npc->nc", centred, centred, dtype=np.float64) / samples.shape[1]
    return first + about, second + 2.0 * about * first + np.asarray(about, np.float64) ** 2
