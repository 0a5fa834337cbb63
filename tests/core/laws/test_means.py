"""A shift that is the same wherever one mean is taken is subtracted with it; whole numbers make that exact."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from normfold.core.laws.means import vanishes


def centred(x: np.ndarray, count: int) -> np.ndarray:
    """``x`` of ``[C, L]`` less the mean of each group, times the group's size: whole numbers stay whole."""
    groups = x.reshape(count, -1)
    return (groups * groups.shape[1] - groups.sum(axis=1, keepdims=True)).reshape(x.shape)


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(0, 999), st.booleans())
def test_what_vanishes_changes_nothing_and_what_does_not_does(
    count: int, inside: int, length: int, seed: int, even: bool
) -> None:
    rng = np.random.default_rng(seed)
    x = rng.integers(-9, 9, (count * inside, length)).astype(np.float64)
    shift = rng.integers(-9, 9, (count * inside, 1)).astype(np.float64)
    if even:
        shift = np.repeat(shift[:count], inside, axis=0)
    same = np.array_equal(centred(x + shift, count), centred(x, count))
    assert vanishes(shift, -2, count) == same


def test_one_number_for_all_vanishes() -> None:
    assert vanishes(np.ones(()), -2, 3)


def test_a_shift_along_positions_stays() -> None:
    assert not vanishes(np.array([[0.0, 1.0]]), -2, 1)
    assert not vanishes(np.array([0.0, 1.0]), -2, 2)


def test_a_shift_along_the_batch_is_not_looked_at() -> None:
    assert not vanishes(np.zeros((2, 4, 1)), -2, 4)
