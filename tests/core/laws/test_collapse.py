"""A chain of affine maps is one affine map, exactly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linear_reference import apply, integers, powers
from normfold.core.algebra import Affine
from normfold.core.laws.collapse import inference_norm, norm_constants

SHAPES = st.sampled_from([(), (1,), (3, 1, 1), (3, 1, 4), (4,), (2, 3, 1, 1)])


@given(st.data(), st.lists(st.tuples(SHAPES, SHAPES), min_size=1, max_size=5))
def test_chains(data: st.DataObject, shapes: list[tuple]) -> None:
    x = expected = integers(data.draw, 2, 3, 4, 4)
    whole = Affine.of()
    for scale, shift in shapes:
        step = Affine.of(powers(data.draw, *scale), integers(data.draw, *shift))
        expected, whole = apply(step, expected), step.after(whole)
    assert np.array_equal(apply(whole, x), expected)


@given(st.data())
def test_inference_norm(data: st.DataObject) -> None:
    """With a variance whose root is a power of two, nothing is rounded."""
    x = integers(data.draw, 2, 3, 4)
    scale, bias, mean = (integers(data.draw, 3, 1) for _ in range(3))
    deviation = np.abs(powers(data.draw, 3, 1)) + (powers(data.draw, 3, 1) == 0) * 0
    deviation[deviation == 0] = 1
    affine = inference_norm(scale, bias, mean, deviation**2 - 1 / 64, 1 / 64)
    assert np.array_equal(apply(affine, x), scale * (x - mean) / deviation + bias)


def test_a_variance_plus_epsilon_of_zero_is_seen() -> None:
    with np.errstate(all="ignore"):
        affine = inference_norm(np.ones(2), np.ones(2), np.ones(2), np.array([1.0, 0.0]), 0.0)
    assert not affine.finite


def test_an_epsilon_that_float16_loses() -> None:
    variance = np.zeros(1, np.float16).astype(np.float64)
    assert inference_norm(np.ones(1), np.zeros(1), np.zeros(1), variance, 1e-9).finite


@pytest.mark.parametrize("x", [1.0, 2.0])
def test_counter_example_of_a_quotient(x: float) -> None:
    """``6 / x`` lies on no line: halves do not add up."""
    assert 6 / x + 6 / (3 * x) != 2 * (6 / (2 * x))


@given(st.data())
def test_the_constants_of_a_norm_and_back(data: st.DataObject) -> None:
    """Any map is that of a norm with given statistics, whatever its own scale and bias were."""
    mean, deviation = integers(data.draw, 3), powers(data.draw, 3)
    deviation[deviation == 0] = 1
    affine = Affine(powers(data.draw, 3, 1), integers(data.draw, 3, 1))
    variance = deviation**2 - 1 / 64
    scale, bias = norm_constants(affine, mean, variance, 1 / 64)
    again = inference_norm(scale, bias, mean, variance, 1 / 64)
    assert np.array_equal(again.scale, affine.scale.reshape(-1))
    assert np.array_equal(again.shift, affine.shift.reshape(-1))
