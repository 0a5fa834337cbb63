"""The share of runs that miss a deadline: its interval against SciPy's, and what is said of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from normfold.measure import statistics
from normfold.measure.deadline import Deadline, Punctuality


@pytest.mark.parametrize(
    ("hits", "n"), [(0, 1), (1, 1), (0, 300), (300, 300), (1, 2), (3, 1000), (57, 200), (40, 9000)]
)
def test_the_interval_is_that_of_clopper_and_pearson(hits: int, n: int) -> None:
    found, truth = statistics.share(hits, n), stats.binomtest(hits, n).proportion_ci(method="exact")
    assert found.value == hits / n
    np.testing.assert_allclose([found.low, found.high], [truth.low, truth.high], rtol=1e-8, atol=1e-12)


def test_the_interval_keeps_its_promise() -> None:
    """For a share of 3 %, at most one interval in twenty lies beside it."""
    rng, n, p = np.random.default_rng(0), 200, 0.03
    found = {hits: statistics.share(hits, n) for hits in range(40)}
    covered = [found[hits].low <= p <= found[hits].high for hits in rng.binomial(n, p, 2000)]
    assert np.mean(covered) >= 0.95


@pytest.mark.parametrize(
    ("late", "runs", "verdict"),
    [(0, 1000, "met"), (0, 10, "inconclusive"), (10, 1000, "inconclusive"), (50, 1000, "missed"), (3, 3, "missed")],
)
def test_a_deadline_is_met_or_missed_only_beyond_chance(late: int, runs: int, verdict: str) -> None:
    found = Punctuality.of(Deadline(0.02), [21_000_000] * late + [20_000_000] * (runs - late))
    assert (found.missed, found.runs, found.verdict) == (late, runs, verdict)
    finding = found.finding("net")
    assert (finding is not None) == (verdict == "missed")
    if finding is not None:
        assert (finding.code, finding.exit_code) == ("deadline-missed", 1)
        assert "20 ms" in finding.message
    assert math.isclose(found.record("net")["ns"], 2e7)
