"""Rounding to the least number of a type."""

from __future__ import annotations

import numpy as np

from normfold.core.algebra.steps import rounded_away


def test_what_is_lost() -> None:
    assert rounded_away(np.array([2.4, 2.5, 2.6, 0.4, 3.0]), 1.0).tolist() == [
        0.3999999999999999,
        0.5,
        -0.3999999999999999,
        0.4,
        0.0,
    ]


def test_doubles_lose_nothing_and_nothing_overflows() -> None:
    least = float(np.finfo(np.float64).smallest_subnormal)
    with np.errstate(all="raise", under="ignore"):
        assert not rounded_away(np.array([1.0, 1e300, -1e-300, 5 * least]), least).any()
