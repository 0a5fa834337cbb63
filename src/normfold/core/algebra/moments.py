"""Mean and standard deviation by channel, and what affine maps and moves make of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from normfold.core.algebra.affine import Affine, Array, trim
from normfold.core.algebra.maps import Map
from normfold.core.algebra.moves import Move, Permute, Regroup, Shuffle


def deviation(variance: Array, epsilon: float) -> Array:
    """What a norm divides by: ``sqrt(variance + epsilon)``."""
    return np.asarray(np.sqrt(variance + epsilon))


@dataclass(frozen=True, eq=False, slots=True)
class Moments:
    """``mean`` and standard ``deviation`` of a value, both right-aligned with it and of one shape."""

    mean: Array
    deviation: Array

    @staticmethod
    def of(mean: ArrayLike, deviation: ArrayLike) -> Moments:
        """The moments with these arrays, any broadcastable shapes."""
        mean, deviation = np.broadcast_arrays(trim(mean), trim(deviation))
        return Moments(mean, deviation)

    def through(self, affine: Affine) -> Moments:
        """Those of ``scale * x + shift``; exact, whatever the distribution."""
        return Moments.of(affine.scale * self.mean + affine.shift, np.abs(affine.scale) * self.deviation)

    def mapped(self, by: Map) -> Moments | None:
        """Those of ``by`` of the value; ``None`` where it mixes channels."""
        if isinstance(by, Affine):
            return self.through(by)
        return self.moved(by) if isinstance(by, Shuffle) else None

    def moved(self, move: Move) -> Moments | None:
        """Those of what ``move`` makes of the value; ``None`` where a channel would not stay whole."""
        if not isinstance(move, Permute | Shuffle | Regroup):
            return None
        mean, deviation = move.forward(self.mean), move.forward(self.deviation)
        if mean is None or deviation is None or mean.size != self.mean.size:
            return None
        return Moments.of(mean, deviation)

    @property
    def finite(self) -> bool:
        """Whether every mean and every deviation is a number."""
        return bool(np.isfinite(self.mean).all() and np.isfinite(self.deviation).all())

    @property
    def axis(self) -> int | None:
        """The one axis (negative) along which the moments vary; ``None`` where they do along none or several."""
        axes = [axis for axis in range(-self.mean.ndim, 0) if self.mean.shape[axis] > 1]
        return axes[0] if len(axes) == 1 else None


def independent_sum(terms: Sequence[Moments], signs: Sequence[int]) -> Moments:
    """Those of a signed sum. The mean is exact; variances add where the terms are uncorrelated."""
    mean = sum(sign * term.mean for sign, term in zip(signs, terms, strict=True))
    return Moments.of(mean, np.sqrt(sum(term.deviation**2 for term in terms)))
