"""Weights in their canonical layout: whatever the order, the pending scales and the size of a piece."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linear_reference import Stored, integers, powers, weights
from normfold.core.algebra import Weight
from normfold.core.algebra import weight as module
from normfold.core.algebra.weight import split_shape

PIECES = st.sampled_from([1, 8, 64, 200, 1 << 25])


def directly(weight: Weight) -> np.ndarray:
    """The canonical weight, by the definition of ``split``, ``rows`` and ``columns``."""
    base = weight.base.numpy().astype(np.float64).reshape(weight.split)
    base = np.swapaxes(base, 1, 2) if weight.order == "gio" else base
    tail = (1,) * len(weight.taps)
    rows = np.ones(weight.out_channels) if weight.rows is None else weight.rows
    columns = np.ones(weight.in_channels) if weight.columns is None else weight.columns
    return (
        base
        * rows.reshape(weight.groups, weight.out_per_group, 1, *tail)
        * columns.reshape(weight.groups, 1, weight.in_per_group, *tail)
    )


@pytest.fixture(autouse=True)
def _restore() -> object:
    before = module.CHUNK_BYTES
    yield
    module.CHUNK_BYTES = before


@given(weights(), PIECES)
def test_canonical_and_native(weight: Weight, piece: int) -> None:
    module.CHUNK_BYTES = piece
    wanted = directly(weight)
    assert np.array_equal(weight.canonical(), wanted)
    assert np.array_equal(weight.native(), np.swapaxes(wanted, 1, 2) if weight.order == "gio" else wanted)


@given(weights(), PIECES, st.sampled_from([np.float32, np.float16, np.float64, ml_dtypes.bfloat16]))
def test_pieces_come_in_native_order(weight: Weight, piece: int, dtype: type) -> None:
    module.CHUNK_BYTES = piece
    wanted = directly(weight)
    wanted = np.swapaxes(wanted, 1, 2) if weight.order == "gio" else wanted
    pieces = list(weight.write_chunks(np.dtype(dtype)))
    assert all(p.dtype == dtype and p.flags.c_contiguous for p in pieces)
    assert np.array_equal(np.concatenate([p.reshape(-1) for p in pieces]), wanted.reshape(-1).astype(dtype))


@given(st.data(), weights(), PIECES)
def test_contract(data: st.DataObject, weight: Weight, piece: int) -> None:
    module.CHUNK_BYTES = piece
    vector = integers(data.draw, weight.in_channels)
    full = vector.reshape(weight.groups, weight.in_per_group)
    taps = directly(weight).reshape(weight.groups, weight.out_per_group, weight.in_per_group, -1).sum(axis=3)
    assert np.array_equal(weight.contract(vector), np.einsum("goi,gi->go", taps, full).reshape(-1))
    assert np.array_equal(weight.contract(np.float64(3)), taps.sum(axis=2).reshape(-1) * 3)
    assert np.array_equal(weight.contract(np.zeros(())), np.zeros(weight.out_channels))


@given(weights(), PIECES)
def test_magnitude_and_gain(weight: Weight, piece: int) -> None:
    module.CHUNK_BYTES = piece
    assert weight.magnitude() == np.abs(directly(weight)).max()
    assert weight.magnitude() <= weight.gain * np.abs(weight.base.numpy()).max()


@given(st.data(), weights())
def test_scales_add_up(data: st.DataObject, weight: Weight) -> None:
    first, second, column = (
        powers(data.draw, weight.out_channels),
        powers(data.draw, weight.out_channels),
        powers(data.draw, weight.in_channels),
    )
    scaled = weight.scale_rows(first).scale_columns(column).scale_rows(second).scale_columns(np.float64(2))
    tail = (1,) * len(weight.taps)
    rows = (first * second).reshape(weight.groups, weight.out_per_group, 1, *tail)
    columns = (column * 2).reshape(weight.groups, 1, weight.in_per_group, *tail)
    assert np.array_equal(scaled.canonical(), directly(weight) * rows * columns)
    assert scaled.pending


@given(st.data(), weights())
def test_columns_in_another_order(data: st.DataObject, weight: Weight) -> None:
    places = data.draw(st.permutations(range(weight.in_per_group)))
    order = np.concatenate([g * weight.in_per_group + np.array(places) for g in range(weight.groups)])
    taken = weight.take_columns(order)
    assert taken is not None
    assert np.array_equal(taken.canonical(), directly(weight)[:, :, places])


def test_columns_that_leave_their_group() -> None:
    weight = Weight(Stored(np.ones((2, 1, 2))), (2, 1, 2), "goi")
    assert weight.take_columns(np.array([2, 3, 0, 1])) is None


@pytest.mark.parametrize(
    ("native", "groups", "matrix", "split"),
    [
        ((6, 2, 3, 3), 3, False, (3, 2, 2, 3, 3)),
        ((6, 4), 1, False, (1, 6, 4)),
        ((4, 3), 1, True, (1, 4, 3)),
        ((2, 5, 4, 3), 1, True, (10, 4, 3)),
    ],
)
def test_split_shape(native: tuple[int, ...], groups: int, matrix: bool, split: tuple[int, ...]) -> None:
    assert split_shape(native, groups, matrix=matrix) == split


@pytest.mark.parametrize("split", [(1, 0, 3), (1, 3, 0), (2, 0, 0, 3)])
@pytest.mark.parametrize("order", ["goi", "gio"])
def test_a_weight_without_elements(split: tuple[int, ...], order: str) -> None:
    weight = Weight(Stored(np.zeros(split)), split, order).scale_rows(np.float64(2))
    assert weight.magnitude() == 0
    assert weight.canonical().size == 0
    assert sum(p.size for p in weight.write_chunks(np.dtype(np.float32))) == 0
    assert weight.contract(np.float64(1)).shape == (weight.out_channels,)


@given(weights(), PIECES)
def test_what_is_lost_to_a_step_is_that_of_the_whole_weight(weight: Weight, piece: int) -> None:
    module.CHUNK_BYTES = piece
    whole, step = directly(weight), 0.75
    columns = np.ones(weight.in_channels) if weight.columns is None else np.abs(weight.columns)
    unit = columns.reshape(weight.groups, 1, weight.in_per_group, *(1,) * len(weight.taps))
    unit = np.where(unit == 0, np.inf, unit)
    axes = tuple(range(2, whole.ndim))
    lost, size = weight.lost(step)
    rounded = step * np.rint(whole / step)
    np.testing.assert_allclose(lost, np.sqrt(np.square((whole - rounded) / unit).sum(axis=axes)).reshape(-1))
    np.testing.assert_allclose(size, np.sqrt(np.square(whole / unit).sum(axis=axes)).reshape(-1))


def test_the_smallest_scale_that_waits() -> None:
    weight = Weight(Stored(np.ones((2, 3))), (1, 2, 3), "goi")
    assert weight.drop == 1
    assert weight.scale_rows(np.array([0.25, 4.0])).drop == 0.25
    assert weight.scale_rows(np.array([0.25, 4.0])).scale_columns(np.array([0.0, -0.5, 8.0])).drop == 0.125
