"""``P (W x + b) = (P W) x + P b``, exactly: means of four small multiples of four are whole."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from normfold.core.algebra import Centring, Weight
from normfold.core.algebra.weight import Dense
from normfold.core.laws.centring import centre_rows

OUT, IN = 4, 3
CENTRING = Centring(-1, OUT)


def weight(seed: int, order: Literal["goi", "gio"]) -> Weight:
    split = (1, OUT, IN) if order == "goi" else (1, IN, OUT)
    values = 4.0 * np.random.default_rng(seed).integers(-9, 9, split)
    return Weight(Dense(values), split, order)


@given(seed=st.integers(0, 99), order=st.sampled_from(["goi", "gio"]), pending=st.booleans())
def test_identity(seed: int, order: Literal["goi", "gio"], pending: bool) -> None:
    rng = np.random.default_rng(seed)
    held, bias, x = weight(seed, order), 4.0 * rng.integers(-9, 9, OUT), rng.integers(-9, 9, IN).astype(np.float64)
    if pending:
        held = held.scale_rows(2.0 ** np.arange(OUT)).scale_columns(2.0 ** np.arange(IN))
    wanted = CENTRING.of(held.canonical()[0] @ x + bias)
    centred, shift = centre_rows(held, bias, CENTRING)
    assert shift is not None
    assert np.array_equal(centred.canonical()[0] @ x + shift, wanted)
    assert not centred.pending


@given(seed=st.integers(0, 99))
def test_every_term_of_a_sum_and_a_uniform_scale(seed: int) -> None:
    x, z = 4.0 * np.random.default_rng(seed).integers(-9, 9, (2, OUT))
    assert np.array_equal(CENTRING.of(x + z), CENTRING.of(x) + CENTRING.of(z))
    assert np.array_equal(CENTRING.of(2 * x), 2 * CENTRING.of(x))


def test_counter_example() -> None:
    """Scales of their own do not commute with the mean."""
    x, scale, centring = np.array([1.0, 2.0]), np.array([1.0, 3.0]), Centring(-1, 2)
    assert np.array_equal(centring.of(scale * x), [-2.5, 2.5])
    assert np.array_equal(scale * centring.of(x), [-0.5, 1.5])


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_one_number_for_all_channels_goes(shape: tuple[int, ...]) -> None:
    _, shift = centre_rows(weight(0, "goi"), np.full(shape, 3.0), CENTRING)
    assert shift is not None
    assert not shift.any()


def test_no_bias_stays_none() -> None:
    assert centre_rows(weight(0, "goi"), None, CENTRING)[1] is None
