"""``W (a x + d) + b = (W a)(x + d/a) + b = (W a) x + (b + W [d])``, exactly, whatever the padding."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linear_reference import Convolution, Stored, apply, convolutions, integers, powers
from normfold.core.algebra import Affine, Weight, Window
from normfold.core.laws.padded import DROWNED, response_map, shift_before


def window(convolution: Convolution) -> Window:
    return Window(
        convolution.weight.taps, convolution.strides, convolution.dilations, convolution.begins, convolution.ends
    )


def per_channel(vector: np.ndarray, rank: int) -> np.ndarray:
    return vector.reshape(-1, *[1] * rank)


@given(st.data(), convolutions())
def test_an_addition_before(data: st.DataObject, case: tuple) -> None:
    convolution, x, bias = case
    rank, channels = len(convolution.strides), convolution.weight.in_channels
    scale, shift = powers(data.draw, channels), integers(data.draw, channels)
    scale[scale == 0] = 2
    quotient = shift_before(scale, shift)
    assert quotient is not None
    after = replace(convolution, weight=convolution.weight.scale_columns(scale))
    norm = Affine.of(per_channel(scale, rank), per_channel(shift, rank))
    assert np.array_equal(convolution(apply(norm, x), bias), after(x + per_channel(quotient, rank), bias))


@given(st.data(), convolutions())
def test_a_map_after(data: st.DataObject, case: tuple) -> None:
    convolution, x, bias = case
    if convolution.weight.order == "gio":
        return
    rank, channels = len(convolution.strides), convolution.weight.in_channels
    scale, shift = powers(data.draw, channels), integers(data.draw, channels)
    response = response_map(convolution.weight, shift, window(convolution), x.shape[2:])
    assert response is not None
    after = replace(convolution, weight=convolution.weight.scale_columns(scale))
    norm = Affine.of(per_channel(scale, rank), per_channel(shift, rank))
    assert np.array_equal(convolution(apply(norm, x), bias), after(x, bias) + response)


def test_a_map_is_smaller_at_the_border() -> None:
    weight = Weight(Stored(np.ones((1, 1, 1, 3, 3))), (1, 1, 1, 3, 3), "goi")
    response = response_map(weight, np.asarray(2.0), Window((3, 3), (1, 1), (1, 1), (1, 1), (1, 1)), (3, 4))
    assert np.array_equal(response, [[[8, 12, 12, 8], [12, 18, 18, 12], [8, 12, 12, 8]]])


def test_a_window_larger_than_its_input_has_no_map() -> None:
    weight = Weight(Stored(np.ones((1, 1, 1, 3))), (1, 1, 1, 3), "goi")
    assert response_map(weight, np.ones(1), Window((3,), (1,), (1,), (0,), (0,)), (2,)) is None


def test_a_map_that_no_memory_holds_is_not_made() -> None:
    weight = Weight(Stored(np.ones((1, 1, 1, 3))), (1, 1, 1, 3), "goi")
    assert response_map(weight, np.ones(1), Window((3,), (1,), (1,), (1,), (1,)), (1 << 40,)) is None


def test_counter_example_of_a_zero_scale() -> None:
    assert shift_before(np.array([1.0, 0.0]), np.array([1.0, 1.0])) is None


def test_a_zero_scale_without_a_shift_does_no_harm() -> None:
    assert np.array_equal(shift_before(np.array([2.0, 0.0]), np.array([1.0, 0.0])), [0.5, 0.0])


@pytest.mark.parametrize(("shift", "holds"), [(DROWNED, True), (DROWNED * 1.01, False), (-DROWNED * 1.01, False)])
def test_a_shift_far_larger_than_the_scale_is_refused(shift: float, holds: bool) -> None:
    assert (shift_before(np.ones(2), np.array([1.0, shift])) is not None) is holds
