"""The figures that a set of timed runs supports, and no others.

Candidates are timed in rounds: one block of runs each, in random order. A ratio is the exponential of a mean, over
fresh processes, of the median over rounds of the paired log-ratio of block medians: drift hits both blocks of a
round alike, and what a process happens to start with (addresses, pages, cores) counts as one observation, however
often it was looked at.

How many processes are needed is settled once, from the spread among the first ones (Stein's two-stage procedure,
1945), and the interval keeps to that spread. Adding processes until the interval is narrow would stop when the spread
happens to look small, and its intervals would miss too often; this one keeps its promise whatever the spread.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from normfold.measure.student_t import t_quantile

Floats = NDArray[np.floating[Any]]
Verdict = Literal["faster", "slower", "fewer", "more", "equivalent", "inconclusive"]
COUNTED: Final[dict[Verdict, Verdict]] = {"faster": "fewer", "slower": "more"}
"""What a verdict on times is called where it is one on counts, which say nothing of time."""

CONFIDENCE: Final = 0.95
THRESHOLD: Final = 0.02
"""Relative difference below which two models count as equally fast."""
HALF_WIDTH: Final = 0.005
"""Relative half-width that is aimed at."""
FIRST: Final = 5
"""Processes of the first stage; their spread settles how many more there are."""
QUANTILES: Final = (0.5, 0.9, 0.95, 0.99, 0.999)
SIDE: Final = 0.999
"""Confidence on each side of a quantile's interval."""
DRIFT: Final = 0.05
"""Relative change within a process beyond which it does not run steadily."""
BISECTIONS: Final = 50
FENCE: Final = 3.0
"""Interquartile ranges beyond the quartiles from which a block is an outlier (Tukey's outer fence)."""


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and the bounds of its interval."""

    value: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half the distance between the bounds."""
        return (self.high - self.low) / 2

    def exp(self) -> Interval:
        """The same of the exponential."""
        return Interval(math.exp(self.value), math.exp(self.low), math.exp(self.high))


@dataclass(frozen=True, slots=True)
class Quantile:
    """A quantile of single runs with its bounds, each of which holds with confidence `SIDE`."""

    q: float
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Time, or count, of one candidate over that of the reference.

    ``found``: the interval excludes 1. ``floor`` is what two copies of the reference may differ by as far as this run
    can tell.
    """

    ratio: Interval
    floor: float
    found: bool
    verdict: Verdict
    counted: bool = False
    """Whether it is of counts, and says nothing of time."""

    @property
    def called(self) -> bool:
        """Whether there is a difference to speak of: found, and above the noise floor."""
        return self.found and _above(math.log(self.ratio.value), self.floor)


def stein_interval(values: Sequence[float], first: int = FIRST, confidence: float = CONFIDENCE) -> Interval:
    """Interval of the mean of ``values``, its spread taken from the ``first`` ones only.

    Exact for normal values where their number was decided from the spread of those first ones, and for
    ``first >= len(values)`` the ordinary t interval. Infinite for a single value.
    """
    mean = float(np.mean(values))
    stage = min(first, len(values))
    if stage < 2:
        return Interval(mean, -math.inf, math.inf)
    half = t_quantile((1 + confidence) / 2, stage - 1) * _spread(values[:stage]) / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half)


def stein_size(first: Sequence[float], half_width: float, confidence: float = CONFIDENCE) -> int:
    """How many values in all bring the half-width down to ``half_width``."""
    wanted = (t_quantile((1 + confidence) / 2, len(first) - 1) * _spread(first) / half_width) ** 2
    return max(len(first), math.ceil(wanted))


def welch_interval(a: Sequence[float], b: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """Interval of mean(b) - mean(a) for independent samples with spreads of their own (Welch, 1947)."""
    difference = float(np.mean(b) - np.mean(a))
    if min(len(a), len(b)) < 2:
        return Interval(difference, -math.inf, math.inf)
    shares = [_spread(values) ** 2 / len(values) for values in (a, b)]
    if not sum(shares):
        return Interval(difference, difference, difference)
    df = sum(shares) ** 2 / sum(share**2 / (len(values) - 1) for share, values in zip(shares, (a, b), strict=True))
    half = t_quantile((1 + confidence) / 2, df) * math.sqrt(sum(shares))
    return Interval(difference, difference - half, difference + half)


def judge(
    logs: Interval, control: Interval | None, threshold: float = THRESHOLD, *, counted: bool = False
) -> Comparison:
    """What an interval of the log-ratio says, beside that of two copies of the reference."""
    floor = 0.0 if control is None else math.expm1(max(abs(control.low), abs(control.high)))
    found = not logs.low <= 0.0 <= logs.high
    verdict = _verdict(logs, floor, threshold)
    return Comparison(logs.exp(), floor, found, COUNTED.get(verdict, verdict) if counted else verdict, counted)


def _verdict(logs: Interval, floor: float, threshold: float) -> Verdict:
    bound = math.log1p(threshold)
    if -bound < logs.low and logs.high < bound:
        return "equivalent"
    if not _above(logs.value, floor):
        return "inconclusive"
    if logs.high < -bound:
        return "faster"
    return "slower" if logs.low > bound else "inconclusive"


def _above(log: float, floor: float) -> bool:
    return abs(log) > math.log1p(floor)


def log_ratio(reference: Floats, other: Floats) -> float:
    """Median over rounds of the log-ratio of one process; block medians by round."""
    return float(np.median(np.log(other) - np.log(reference)))


def block_medians(blocks: Sequence[Sequence[int]]) -> Floats:
    """Median of each block's runs."""
    return np.array([np.median(block) for block in blocks])


def quantiles(runs: Sequence[int] | Floats) -> tuple[Quantile, ...]:
    """Those of `QUANTILES` that the number of runs supports.

    The bounds are order statistics: how many runs fall below a quantile is binomial, whatever the distribution.
    """
    ordered = np.sort(np.asarray(runs, dtype=np.float64))
    found = ((q, order_statistics(len(ordered), q)) for q in QUANTILES)
    return tuple(
        Quantile(q, float(np.quantile(ordered, q)), float(ordered[ranks[0]]), float(ordered[ranks[1]]))
        for q, ranks in found
        if ranks is not None
    )


def share(hits: int, n: int, confidence: float = CONFIDENCE) -> Interval:
    """Interval of the probability of a hit, given ``hits`` among ``n`` independent tries (Clopper and Pearson, 1934).

    It holds its confidence for every probability and every ``n``.
    """
    tail = (1 - confidence) / 2
    low = 0.0 if hits == 0 else _solved(lambda p: float(np.sum(_binomial(n, p)[hits:])) - tail)
    high = 1.0 if hits == n else _solved(lambda p: tail - float(np.sum(_binomial(n, p)[: hits + 1])))
    return Interval(hits / n, low, high)


def _solved(rising: Callable[[float], float]) -> float:
    """Where a rising function of a probability is zero."""
    low, high = 0.0, 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return (low + high) / 2


def order_statistics(n: int, q: float, side: float = SIDE) -> tuple[int, int] | None:
    """Positions, from 0, of the sorted values that bound the quantile ``q``; None where ``n`` are too few.

    The largest of n values is below the quantile with probability q**n, so that much is needed at least.
    """
    if n == 0:
        return None
    below = np.cumsum(_binomial(n, q))
    # Value k+1 in order exceeds the quantile when at most k values are below it, and the other way round.
    high = int(np.searchsorted(below, side))
    low = int(np.searchsorted(below, 1.0 - side, side="right")) - 1
    return None if high >= n or low < 0 else (low, high)


def _binomial(n: int, q: float) -> Floats:
    """Probabilities of 0 to n successes."""
    k = np.arange(n + 1)
    log_factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    choose = log_factorials[n] - log_factorials[k] - log_factorials[n - k]
    logs: Floats = choose + k * math.log(q) + (n - k) * math.log1p(-q)
    return np.asarray(np.exp(logs))


def steady_from(rounds: Floats) -> int | None:
    """The round from which a process runs steadily; None where it does not within the first half.

    MSER (White, 1997): cut off the start, at most half, that leaves the rest with the smallest standard error of its
    mean; where that is the whole half, or the two halves of the rest differ by more than `DRIFT`, the process was still
    changing. ``rounds`` is one figure a round, the mean of the logs of its blocks, so that the cut cannot favour a
    candidate; values beyond the outer fence are drawn in to it, or one interruption would move the cut.
    """
    if len(rounds) < 8:
        return 0
    low, high = fences(rounds)
    values = np.clip(rounds, low, high)
    half = len(values) // 2
    errors = [float(np.sum((values[k:] - np.mean(values[k:])) ** 2)) / (len(values) - k) ** 2 for k in range(half + 1)]
    start = int(np.argmin(errors))
    early, late = np.array_split(values[start:], 2)
    drifts = abs(float(np.median(late) - np.median(early))) > DRIFT
    return None if start == half or drifts else start


def outliers(values: Floats) -> list[int]:
    """Positions beyond Tukey's outer fences; they are named, and stay."""
    low, high = fences(values)
    return [int(index) for index in np.flatnonzero((values < low) | (values > high))]


def fences(values: Floats) -> tuple[float, float]:
    """Tukey's outer fences."""
    low, high = np.quantile(values, [0.25, 0.75])
    reach = FENCE * (high - low)
    return float(low - reach), float(high + reach)


def _spread(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1))
