"""Scales pass rectifiers, any map passes a Clip with its bounds, exactly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linear_reference import apply, integers, powers
from normfold.core.algebra import Affine
from normfold.core.laws.homogeneous import common, moved_bounds


@given(st.data(), st.sampled_from([0.0, 0.25, -0.5, 1.0]))
def test_rectifiers(data: st.DataObject, slope: float) -> None:
    x, scale = integers(data.draw, 2, 3, 4), np.abs(powers(data.draw, 3, 1))
    assert np.array_equal(scale * np.where(x > 0, x, slope * x), np.where(scale * x > 0, scale * x, slope * scale * x))


@given(
    st.data(), st.integers(-4, 4), st.integers(0, 6), st.sampled_from([-2.0, -0.5, 0.25, 1.0, 4.0]), st.integers(-3, 3)
)
def test_clip(data: st.DataObject, low: int, width: int, scale: float, shift: int) -> None:
    x = 4 * integers(data.draw, 20)
    affine = Affine.of(scale, float(shift))
    bounds = moved_bounds(affine, low, low + width)
    assert bounds is not None
    assert np.array_equal(apply(affine, np.clip(x, low, low + width)), np.clip(apply(affine, x), *bounds))


@given(st.data(), st.sampled_from([-2.0, 0.5]), st.booleans())
def test_clip_with_one_bound(data: st.DataObject, scale: float, upper: bool) -> None:
    low, high = (-np.inf, 2.0) if upper else (-1.0, np.inf)
    x, affine = integers(data.draw, 20), Affine.of(scale, 3.0)
    assert np.array_equal(
        apply(affine, np.clip(x, low, high)), np.clip(apply(affine, x), *moved_bounds(affine, low, high))
    )


NONZERO = st.lists(st.sampled_from([-2.0, -0.5, 0.25, 1.0, 4.0]), min_size=3, max_size=3)


@given(st.data(), st.booleans())
def test_bounds_of_each_channel(data: st.DataObject, own: bool) -> None:
    x, affine = 4 * integers(data.draw, 20, 3), Affine.of(data.draw(NONZERO), integers(data.draw, 3))
    low = integers(data.draw, 3) if own else np.asarray(-1.0)
    bounds = moved_bounds(affine, low, low + 3)
    assert bounds is not None
    assert np.array_equal(apply(affine, np.clip(x, low, low + 3)), np.clip(apply(affine, x), *bounds))


def test_bounds_that_differ_between_channels() -> None:
    for affine, high, uniform in (
        (Affine.of([1.0, 2.0]), 6.0, False),
        (Affine.of([1.0, 2.0]), np.inf, True),
        (Affine.of(1.0, [0.0, 1.0]), 6.0, False),
    ):
        bounds = moved_bounds(affine, 0.0, high)
        assert bounds is not None
        assert all(common(bound) is not None for bound in bounds) == uniform


def test_a_scale_of_zero_has_no_bounds() -> None:
    assert moved_bounds(Affine.of([1.0, 0.0]), 0.0, 0.0) is None


@pytest.mark.parametrize("x", [-1.0, 1.0])
def test_counter_examples(x: float) -> None:
    relu = lambda v: max(v, 0.0)  # noqa: E731
    assert -1 * relu(1.0) != relu(-1.0)
    assert relu(-1.0) + 1 != relu(-1.0 + 1) or x
    assert 2 * min(relu(6.0), 6) != min(relu(12.0), 6)
