"""A scale moves into the scale of a quantised weight; powers of two make every identity exact."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from normfold.core.algebra import Codes, Weight
from normfold.core.laws.quantized import BIAS_LIMIT, bias_step, columns_as_rows, mirror, rescale

POWERS = st.integers(-6, 6).map(lambda k: 2.0**k)
FACTORS = st.one_of(POWERS, POWERS.map(lambda x: -x), st.just(0.0))


@dataclass(frozen=True)
class Stored:
    """Codes at rest."""

    values: np.ndarray

    def numpy(self) -> np.ndarray:
        return self.values


def codes_of(values: np.ndarray, scale: list[float], zero_point: list[int], axis: int = 0) -> Codes:
    limits = (int(np.iinfo(values.dtype).min), int(np.iinfo(values.dtype).max))
    return Codes(
        values=Stored(values),
        axis=axis,
        scale=np.asarray(scale, dtype=np.float64),
        zero_point=np.asarray(zero_point, dtype=np.int32),
        limits=limits,
        normal=(2.0**-126, 2.0**127),
        single=False,
        per_axis=True,
    )


@st.composite
def weights(draw: st.DrawFn) -> tuple[Codes, np.ndarray]:
    """A weight of codes on either axis, and a factor for each of its channels."""
    n, k, axis = draw(st.integers(1, 4)), draw(st.integers(1, 5)), draw(st.integers(0, 1))
    dtype, low = draw(st.sampled_from([(np.int8, -128), (np.uint8, 0)]))
    numbers = st.integers(low, low + 255)
    flat = draw(st.lists(numbers, min_size=n * k, max_size=n * k))
    values = np.asarray(flat, dtype).reshape((n, k) if axis == 0 else (k, n))
    scale = draw(st.lists(POWERS, min_size=n, max_size=n))
    zero_point = draw(st.lists(numbers, min_size=n, max_size=n))
    return codes_of(values, scale, zero_point, axis), np.asarray(draw(st.lists(FACTORS, min_size=n, max_size=n)))


@given(weights())
def test_new_scale_times_new_codes_is_the_scaled_weight(case: tuple[Codes, np.ndarray]) -> None:
    codes, factors = case
    wanted = factors[:, None] * np.moveaxis(codes.numpy(), codes.axis, 0)
    centred = mirror(codes, factors) - codes.zero_point[:, None]
    assert np.array_equal(rescale(codes, factors)[:, None] * centred, wanted)
    assert (rescale(codes, factors) > 0).all()


@given(weights())
def test_only_channels_with_a_negative_or_zero_factor_change_their_codes(case: tuple[Codes, np.ndarray]) -> None:
    codes, factors = case
    mirrored, zero_point = mirror(codes, factors), codes.zero_point[:, None]
    assert np.array_equal(mirrored[factors > 0], codes.whole()[factors > 0])
    assert np.array_equal(mirrored[factors < 0], (2 * zero_point - codes.whole())[factors < 0])
    assert np.array_equal(mirrored[factors == 0], np.broadcast_to(zero_point, mirrored.shape)[factors == 0])


def test_the_least_code_of_int8_has_no_mirror_image() -> None:
    """The counter-example of the law: 128 is outside the type."""
    codes = codes_of(np.int8([[-128, 1]]), [1.0], [0])
    assert mirror(codes, np.asarray([-1.0])).max() == 128 > codes.limits[1]


def test_codes_are_read_with_their_channels_first() -> None:
    codes = codes_of(np.arange(6, dtype=np.int8).reshape(3, 2), [1.0, 2.0], [0, 1], axis=1)
    assert np.array_equal(codes.whole(), [[0, 2, 4], [1, 3, 5]])
    assert np.array_equal(codes.numpy(), [[0, 0], [2, 4], [4, 8]])


def test_groups_that_share_scales_need_equal_factors() -> None:
    codes = codes_of(np.ones((4, 2), np.int8), [1.0, 1.0], [0, 0], axis=1)
    assert np.array_equal(codes.along_axis(np.asarray([3.0, -2.0, 3.0, -2.0])), [3, -2])
    assert codes.along_axis(np.asarray([3.0, -2.0, 3.0, 2.0])) is None


def test_steps_of_a_bias() -> None:
    scale = np.asarray([2.0, 4.0])
    assert np.array_equal(bias_step(np.asarray(0.5), scale, 4), [1, 2, 1, 2])
    assert np.array_equal(bias_step(np.asarray([1.0, 2.0, 4.0, 8.0]), scale, 4), [2, 8, 8, 32])
    assert BIAS_LIMIT + 127 * 255 * 2**15 < 2**31


@pytest.mark.parametrize("order", ["goi", "gio"])
@given(factors=st.lists(FACTORS, min_size=3, max_size=3))
def test_one_scale_for_the_input_channels_of_a_group_is_one_for_its_outputs(order: str, factors: list[float]) -> None:
    split = (3, 2, 4) if order == "goi" else (3, 4, 2)
    weight = Weight(Stored(np.arange(24.0).reshape(split)), split, order).scale_columns(np.repeat(factors, 4))
    moved = columns_as_rows(weight)
    assert moved is not None
    assert moved.columns is None
    assert np.array_equal(moved.canonical(), weight.canonical())


def test_scales_that_meet_in_an_output_do_not_move() -> None:
    weight = Weight(Stored(np.ones((1, 2, 2))), (1, 2, 2), "goi")
    assert columns_as_rows(weight.scale_columns(np.asarray([1.0, 2.0]))) is None
    assert columns_as_rows(weight) is weight
