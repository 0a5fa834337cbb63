"""Student's t without SciPy, against SciPy."""

from __future__ import annotations

import pytest

from normfold.measure.student_t import t_quantile

stats = pytest.importorskip("scipy.stats")

FREEDOM = (1, 1.5, 2, 2.7, 3, 4, 5, 9, 14, 33.3, 100, 700, 999.9, 1000, 5000, 1e6)
PROBABILITIES = (0.6, 0.75, 0.9, 0.95, 0.975, 0.99, 0.999, 0.9999)


@pytest.mark.parametrize("df", FREEDOM)
def test_ten_digits(df: float) -> None:
    for p in PROBABILITIES:
        assert t_quantile(p, df) == pytest.approx(stats.t.ppf(p, df), rel=1e-10)
        assert t_quantile(1 - p, df) == pytest.approx(stats.t.ppf(1 - p, df), rel=1e-10)


def test_the_median_is_zero() -> None:
    assert t_quantile(0.5, 4) == 0.0


@pytest.mark.parametrize(("p", "df"), [(0, 3), (1, 3), (-0.1, 3), (0.9, 0), (0.9, -1)])
def test_no_such_quantile(p: float, df: float) -> None:
    with pytest.raises(ValueError, match="no t quantile"):
        t_quantile(p, df)
