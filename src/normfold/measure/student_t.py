"""Quantiles of Student's t distribution, to about twelve digits, without SciPy."""

from __future__ import annotations

import math
from functools import cache
from statistics import NormalDist
from typing import Final

LARGE: Final = 1000.0
"""Degrees of freedom from which the expansion in 1/df is exact to double precision."""
TINY: Final = 1e-300


@cache
def t_quantile(p: float, df: float) -> float:
    """The value that a t variable with ``df`` degrees of freedom stays below with probability ``p``.

    Raises:
        ValueError: ``p`` is not strictly between 0 and 1, or ``df`` is not positive.
    """
    if not (0.0 < p < 1.0 and df > 0.0):
        raise ValueError(f"there is no t quantile for p={p} and df={df}")
    if p == 0.5:
        return 0.0
    tail = min(p, 1.0 - p)
    size = _expanded(tail, df) if df >= LARGE else _solved(tail, df)
    return math.copysign(size, p - 0.5)


def t_tail(x: float, df: float) -> float:
    """Probability that a t variable with ``df`` degrees of freedom exceeds ``x >= 0``."""
    return 0.5 * _beta_tail(df / (df + x * x), df / 2.0)


def _solved(tail: float, df: float) -> float:
    """Bisection on a logarithmic scale: the tail falls steadily, and 200 halvings leave nothing to halve."""
    low, high = 0.0, 1.0
    while t_tail(high, df) > tail:
        low, high = high, high * 2.0
    while (middle := (low + high) / 2.0) not in (low, high):
        if t_tail(middle, df) > tail:
            low = middle
        else:
            high = middle
    return high


def _expanded(tail: float, df: float) -> float:
    """Abramowitz and Stegun, 26.7.5."""
    x = -NormalDist().inv_cdf(tail)
    x2 = x * x
    terms = (
        x,
        x * (x2 + 1) / 4,
        x * ((5 * x2 + 16) * x2 + 3) / 96,
        x * (((3 * x2 + 19) * x2 + 17) * x2 - 15) / 384,
        x * ((((79 * x2 + 776) * x2 + 1482) * x2 - 1920) * x2 - 945) / 92160,
    )
    return sum(term / df**power for power, term in enumerate(terms))


def _beta_tail(x: float, a: float) -> float:
    """The regularised incomplete beta function I_x(a, 1/2), by its continued fraction on the side that converges."""
    if x >= 1.0:
        return 1.0
    b = 0.5
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x) if x else -math.inf
    )
    if x < (a + 1.0) / (a + b + 2.0):
        return front * _fraction(x, a, b) / a
    return 1.0 - front * _fraction(1.0 - x, b, a) / b


def _fraction(x: float, a: float, b: float) -> float:
    """Lentz's method (Numerical Recipes, 6.4)."""
    c, d = 1.0, 1.0 / _away_from_zero(1.0 - (a + b) * x / (a + 1.0))
    value, m = d, 1
    while True:
        for numerator in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1.0 / _away_from_zero(1.0 + numerator * d)
            c = _away_from_zero(1.0 + numerator / c)
            value *= d * c
        if abs(d * c - 1.0) < 1e-16 or m > 10_000:
            return value
        m += 1


def _away_from_zero(value: float) -> float:
    return value if abs(value) > TINY else TINY
