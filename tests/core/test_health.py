"""What the statistics of a norm say: each finding alone, and no finding on a healthy norm."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from normfold.core.health import RunningNorm, findings

HEALTHY = RunningNorm(
    np.array([1.0, -0.5, 2.0, 0.7]),
    np.array([0.0, 0.1, -0.2, 0.3]),
    np.array([0.5, 0.0, -1.0, 2.0]),
    np.array([1.0, 0.2, 3.0, 0.01]),
    epsilon=1e-5,
    dtype=np.dtype("float32"),
)


def with_first(array: np.ndarray | None, value: float) -> np.ndarray:
    assert array is not None
    return np.array([value, *array[1:]])


def test_a_healthy_norm() -> None:
    assert findings(HEALTHY) == ()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tracked": False}, "no running statistics"),
        ({"training": True}, "training mode"),
        ({"mean": None}, "parameters or running statistics are not constants"),
        ({"beta": np.zeros(3)}, "parameters and running statistics have different lengths"),
        ({"beta": with_first(HEALTHY.beta, np.nan)}, "NaN or infinity in 1 of 4 channels"),
        ({"variance": with_first(HEALTHY.variance, -1e-3)}, "variance is negative in 1 of 4 channels"),
        ({"variance": with_first(HEALTHY.variance, 1e-6)}, "variance is below epsilon in 1 of 4 channels"),
        ({"gamma": with_first(HEALTHY.gamma, 0.0)}, "gamma is zero in 1 of 4 channels"),
        ({"gamma": with_first(HEALTHY.gamma, 1e-9)}, "gamma is tiny in 1 of 4 channels"),
        (
            {"mean": np.zeros(4), "variance": np.ones(4)},
            "running statistics were never updated (mean 0, variance 1)",
        ),
    ],
)
def test_each_finding(change: dict, said: str) -> None:
    assert findings(replace(HEALTHY, **change)) == (said,)


def test_a_variance_that_half_precision_cannot_hold() -> None:
    """Four runtimes answer NaN there: they add in float16."""
    lost = replace(HEALTHY, variance=with_first(HEALTHY.variance, 0.0), epsilon=1e-9, dtype=np.dtype("float16"))
    assert findings(lost) == (
        "variance is below epsilon in 1 of 4 channels",
        "variance + epsilon underflows to zero in float16 in 1 of 4 channels",
    )
    assert len(findings(replace(lost, dtype=np.dtype("float32")))) == 1
