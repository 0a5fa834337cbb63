"""``a*(W x + b) + d = (a W) x + (a b + d)``, exactly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from linear_reference import apply, convolutions, integers, powers, weights
from normfold.core.algebra import Affine
from normfold.core.laws.backward import channel_vector, push_into_rows


@given(st.data(), convolutions())
def test_convolutions(data: st.DataObject, case: tuple) -> None:
    convolution, x, bias = case
    rank, out = len(convolution.strides), convolution.weight.out_channels
    affine = Affine.of(powers(data.draw, out, *[1] * rank), integers(data.draw, out, *[1] * rank))
    rows = channel_vector(affine.scale, (-1 - rank,), (out,))
    weight, folded = push_into_rows(convolution.weight, bias.reshape(-1, *[1] * rank), affine, rows)
    after = replace(convolution, weight=weight)
    assert np.array_equal(
        apply(affine, convolution(x, bias)), after(x, np.broadcast_to(folded, (out, *[1] * rank)).reshape(-1))
    )


@given(st.data(), weights(taps=()))
def test_matrices_and_batches_of_them(data: st.DataObject, weight: object) -> None:
    """The groups of a matrix weight are its batch."""
    x = integers(data.draw, weight.groups, 3, weight.in_per_group)
    affine = Affine.of(
        powers(data.draw, weight.groups, 1, weight.out_per_group),
        integers(data.draw, weight.groups, 1, weight.out_per_group),
    )
    rows = channel_vector(affine.scale, (-3, -1), (weight.groups, weight.out_per_group))
    folded, bias = push_into_rows(weight, None, affine, rows)
    product = np.einsum("goi,gmi->gmo", weight.canonical(), x)
    assert np.array_equal(
        apply(affine, product), np.einsum("goi,gmi->gmo", folded.canonical(), x) + (0 if bias is None else bias)
    )


@given(st.data(), weights(taps=()))
def test_a_scale_alone_makes_no_bias(data: st.DataObject, weight: object) -> None:
    affine = Affine.of(powers(data.draw, weight.out_channels))
    assert push_into_rows(weight, None, affine, affine.scale)[1] is None


@given(st.data(), st.lists(st.integers(1, 3), min_size=1, max_size=4))
def test_a_channel_vector_says_what_broadcasting_does(data: st.DataObject, dims: list[int]) -> None:
    """Where there is one, spreading it over the channels gives the array back; where there is none, none would."""
    rank = len(dims)
    axes = tuple(sorted(-1 - k for k in data.draw(st.sets(st.integers(0, rank - 1), min_size=1))))
    shape = [data.draw(st.sampled_from([1, dim])) for dim in dims][data.draw(st.integers(0, rank)) :]
    array = integers(data.draw, *shape)
    vector = channel_vector(array, axes, tuple(dims[axis] for axis in axes))
    along = all(size == 1 or k - len(shape) in axes for k, size in enumerate(shape))
    assert (vector is not None) == along
    if vector is None:
        return
    spread = np.ones(rank, dtype=int)
    for axis in axes:
        spread[axis] = dims[axis]
    assert np.array_equal(
        np.broadcast_to(array, dims), np.broadcast_to(np.broadcast_to(vector, (np.prod(spread),)).reshape(spread), dims)
    )


def test_counter_example_of_another_axis() -> None:
    """[N, C, L] = [N, C, K] @ [K, L] with C == L: a map over C is none over the output axis."""
    assert channel_vector(np.ones((4, 1)) * 2, (-1,), (4,)) is None
    assert channel_vector(np.arange(4.0), (-1,), (4,)) is not None


def test_a_size_that_does_not_fit() -> None:
    assert channel_vector(np.ones((3, 1, 1)), (-3,), (4,)) is None
