"""``W (a x + d) + b = (W a) x + (b + sum W d)``, exactly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linear_reference import Convolution, Stored, apply, convolutions, integers, powers, weights
from normfold.core.algebra import Affine, Weight
from normfold.core.laws.forward import push_into_columns, spread


@given(st.data(), convolutions(whole_taps=True))
def test_convolutions_that_sum_every_tap(data: st.DataObject, case: tuple) -> None:
    convolution, x, bias = case
    rank, channels = len(convolution.strides), convolution.weight.in_channels
    scale, shift = powers(data.draw, channels), integers(data.draw, channels)
    weight, added = push_into_columns(convolution.weight, scale, shift)
    before = apply(Affine.of(scale.reshape(-1, *[1] * rank), shift.reshape(-1, *[1] * rank)), x)
    assert np.array_equal(convolution(before, bias), replace(convolution, weight=weight)(x, bias + added))


@given(st.data(), convolutions())
def test_a_scale_passes_any_padding(data: st.DataObject, case: tuple) -> None:
    convolution, x, bias = case
    rank, channels = len(convolution.strides), convolution.weight.in_channels
    scale = powers(data.draw, channels)
    weight, added = push_into_columns(convolution.weight, scale, np.zeros(()))
    assert not added.any()
    assert np.array_equal(
        convolution(scale.reshape(-1, *[1] * rank) * x, bias), replace(convolution, weight=weight)(x, bias)
    )


@given(st.data(), weights(taps=()))
def test_matrices_and_batches_of_them(data: st.DataObject, weight: Weight) -> None:
    x = integers(data.draw, weight.groups, 3, weight.in_per_group)
    scale, shift = powers(data.draw, weight.in_channels), integers(data.draw, weight.in_channels)
    folded, added = push_into_columns(weight, scale, shift)
    shape = (weight.groups, 1, weight.in_per_group)
    before = np.einsum("goi,gmi->gmo", weight.canonical(), scale.reshape(shape) * x + shift.reshape(shape))
    after = np.einsum("goi,gmi->gmo", folded.canonical(), x) + spread(
        added, (-3, -1), (weight.groups, weight.out_per_group)
    )
    assert np.array_equal(before, after)


@pytest.mark.parametrize("order", ["goi", "gio"])
def test_counter_example_of_a_border(order: str) -> None:
    """A shift before a padded convolution is wrong at the border, and only there."""
    weight = Weight(Stored(np.ones((1, 1, 1, 3))), (1, 1, 1, 3), order)
    crop = (1,) if order == "goi" else (0,)
    convolution = Convolution(weight, (1,), (1,), crop, crop)
    x = np.zeros((1, 1, 5))
    _, added = push_into_columns(weight, np.ones(1), np.ones(1))
    wrong = convolution(x + 1) != convolution(x, added)
    assert wrong.any()
    assert not wrong[..., 2:-2].any()
