"""Intervals of the difference of a measure between two models on the same samples."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from normfold.measure.statistics import CONFIDENCE, Interval
from normfold.measure.student_t import t_quantile

Array = NDArray[Any]
Floats = NDArray[np.float64]
Reduce = Callable[[Array], float]
SEED: Final = 0
"""Of the resampling: the same samples get the same interval."""


def by_t(before: Floats, after: Floats) -> Interval:
    """Interval of the mean difference of pairs, by Student's t."""
    differences = after - before
    count, value = len(differences), float(differences.mean())
    if count < 2:
        return Interval(value, -math.inf, math.inf)
    half = t_quantile((1 + CONFIDENCE) / 2, count - 1) * float(differences.std(ddof=1)) / math.sqrt(count)
    return Interval(value, value - half, value + half)


def by_proportions(before: Floats, after: Floats) -> Interval:
    """Interval of a difference of paired proportions (Agresti and Min, 2005).

    Half a pair is added to each of the four cells: where no sample changed, the interval still has a width.
    """
    count = len(before)
    value = float(after.mean() - before.mean())
    gained, lost = float((after > before).sum()) + 0.5, float((after < before).sum()) + 0.5
    total = count + 2.0
    middle = (gained - lost) / total
    half = t_quantile((1 + CONFIDENCE) / 2, count) * math.sqrt(gained + lost - (gained - lost) ** 2 / total) / total
    return Interval(value, min(value, middle - half), max(value, middle + half))


def by_bootstrap(before: Array, after: Array, reduce: Reduce, resamples: int) -> Interval:
    """Interval of the difference of what ``reduce`` makes of the rows: percentiles over resampled pairs.

    A resample draws as many samples as there are, with replacement, the same ones for both models.
    """
    count, value = len(before), reduce(after) - reduce(before)
    if count < 2:
        return Interval(value, -math.inf, math.inf)
    rng = np.random.default_rng(SEED)
    drawn = (rng.integers(count, size=count) for _ in range(resamples))
    found = [reduce(after[rows]) - reduce(before[rows]) for rows in drawn]
    low, high = np.quantile(found, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    return Interval(value, min(value, float(low)), max(value, float(high)))
