"""What samples say: intervals that keep their promise, quantiles only where they are known, verdicts."""

from __future__ import annotations

import math

import numpy as np
import pytest

from normfold.measure.statistics import (
    FIRST,
    Interval,
    judge,
    log_ratio,
    order_statistics,
    outliers,
    quantiles,
    steady_from,
    stein_interval,
    stein_size,
    welch_interval,
)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def test_the_plain_interval_is_students(rng: np.random.Generator) -> None:
    stats = pytest.importorskip("scipy.stats")
    values = rng.normal(3, 2, 5)
    found = stein_interval(values, first=5)
    low, high = stats.t.interval(0.95, 4, values.mean(), stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-10)


def test_welchs_interval(rng: np.random.Generator) -> None:
    stats = pytest.importorskip("scipy.stats")
    a, b = rng.normal(0, 1, 6), rng.normal(1, 5, 9)
    found = welch_interval(a, b)
    bounds = stats.ttest_ind(b, a, equal_var=False).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((bounds.low, bounds.high), rel=1e-9)


def test_one_value_has_no_interval() -> None:
    assert stein_interval([0.3]).half_width == math.inf
    assert welch_interval([0.3], [0.2, 0.1]).half_width == math.inf


def test_as_many_processes_as_the_spread_of_the_first_asks_for() -> None:
    assert stein_size([0.0, 0.0, 0.0], 0.005) == 3
    first = [-0.01, -0.005, 0.0, 0.005, 0.01]
    size = stein_size(first, 0.005)
    assert size > len(first)
    assert stein_interval([*first, *([0.0] * (size - 5))]).half_width <= 0.005
    assert stein_interval([*first, *([0.0] * (size - 6))]).half_width > 0.005


@pytest.mark.parametrize("spread", [0.002, 0.005, 0.02])
def test_stopping_does_not_spoil_the_interval(rng: np.random.Generator, spread: float) -> None:
    """Whatever the spread: 95 % of the intervals hold the truth, within three standard errors of 4000 trials."""
    missed = 0
    for values in rng.normal(0, spread, (4000, 15)):
        size = min(15, stein_size(values[:FIRST], 0.005))
        found = stein_interval(values[:size])
        missed += not found.low <= 0 <= found.high
    assert abs(missed / 4000 - 0.05) < 3 * math.sqrt(0.05 * 0.95 / 4000)


@pytest.mark.parametrize(
    ("low", "high", "floor", "verdict", "found"),
    [
        (-0.30, -0.10, 0.004, "faster", True),
        (0.10, 0.30, 0.004, "slower", True),
        (-0.004, 0.006, 0.004, "equivalent", False),
        (0.006, 0.014, 0.004, "equivalent", True),
        (-0.05, 0.03, 0.004, "inconclusive", False),
        (0.015, 0.03, 0.004, "inconclusive", True),
        (0.10, 0.30, 0.5, "inconclusive", True),
    ],
)
def test_verdicts(low: float, high: float, floor: float, verdict: str, found: bool) -> None:
    control = Interval(0.0, -math.log1p(floor), math.log1p(floor))
    said = judge(Interval((low + high) / 2, low, high), control)
    assert (said.verdict, said.found) == (verdict, found)
    assert said.floor == pytest.approx(floor)
    assert said.called == (found and abs(math.expm1((low + high) / 2)) > floor)
    assert said.ratio.low == pytest.approx(math.exp(low))


def test_drift_of_the_machine_cancels(rng: np.random.Generator) -> None:
    drift = np.exp(rng.normal(0, 0.5, 41))
    assert log_ratio(100 * drift, 110 * drift) == pytest.approx(math.log(1.1))


@pytest.mark.parametrize(("q", "least"), [(0.5, 10), (0.9, 66), (0.95, 135), (0.99, 688), (0.999, 6905)])
def test_a_quantile_needs_so_many_runs(q: float, least: int) -> None:
    """The largest of n exceeds the quantile with probability 1 - q**n, which must be 99.9 %."""
    assert order_statistics(least, q) is not None
    assert order_statistics(least - 1, q) is None
    assert 1 - q**least >= 0.999 > 1 - q ** (least - 1)


def test_bounds_of_quantiles_against_the_binomial_distribution() -> None:
    stats = pytest.importorskip("scipy.stats")
    for n, q in ((100, 0.5), (500, 0.9), (3000, 0.99)):
        found = order_statistics(n, q)
        assert found is not None
        low, high = found
        assert stats.binom.cdf(high, n, q) >= 0.999 > stats.binom.cdf(high - 1, n, q)
        assert stats.binom.cdf(low, n, q) <= 0.001 < stats.binom.cdf(low + 1, n, q)


def test_quantiles_hold_the_truth(rng: np.random.Generator) -> None:
    runs = rng.exponential(1000, 2000)
    found = {quantile.q: quantile for quantile in quantiles(runs)}
    assert list(found) == [0.5, 0.9, 0.95, 0.99]
    for q, quantile in found.items():
        assert quantile.low <= -1000 * math.log1p(-q) <= quantile.high
        assert quantile.low <= quantile.value <= quantile.high


def test_no_quantile_of_a_handful() -> None:
    assert quantiles([3, 1, 2]) == ()


def test_the_start_is_cut_off(rng: np.random.Generator) -> None:
    noise = rng.normal(0, 0.01, 60)
    assert steady_from(noise + np.where(np.arange(60) < 12, 1.0, 0.0)) == 12


def test_one_late_interruption_does_not_move_the_cut(rng: np.random.Generator) -> None:
    values = rng.normal(0, 0.01, 60)
    values[25] += 50
    start = steady_from(values)
    assert start is not None
    assert start < 25


def test_a_change_in_the_second_half_is_never_steady(rng: np.random.Generator) -> None:
    assert steady_from(rng.normal(0, 0.01, 60) + np.where(np.arange(60) < 40, 1.0, 0.0)) is None


def test_short_series_are_used_whole() -> None:
    assert steady_from(np.array([9.0, 1.0, 1.0, 1.0, 1.0])) == 0


def test_outliers_are_named() -> None:
    values = np.array([1.0, 1.1, 0.9, 1.0, 1.05, 9.0, 0.95, 1.0])
    assert outliers(values) == [5]
