"""Affine maps: composing, undoing, asking."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linear_reference import apply, integers, powers
from normfold.core.algebra import Affine, trim

SHAPES = st.sampled_from([(), (1,), (1, 1), (3, 1), (3, 4), (1, 3, 1), (4,)])


@given(st.data(), st.tuples(SHAPES, SHAPES, SHAPES, SHAPES))
def test_after(data: st.DataObject, shapes: tuple) -> None:
    x = integers(data.draw, 2, 3, 4)
    first = Affine.of(powers(data.draw, *shapes[0]), integers(data.draw, *shapes[1]))
    second = Affine.of(powers(data.draw, *shapes[2]), integers(data.draw, *shapes[3]))
    assert np.array_equal(apply(second.after(first), x), apply(second, apply(first, x)))


@given(st.data(), SHAPES, SHAPES)
def test_inverse(data: st.DataObject, scale: tuple, shift: tuple) -> None:
    x = integers(data.draw, 2, 3, 4)
    numbers = powers(data.draw, *scale)
    affine = Affine.of(np.where(numbers == 0, 4.0, numbers), integers(data.draw, *shift))
    assert affine.invertible
    assert np.array_equal(apply(affine.inverse(), apply(affine, x)), x)
    assert np.array_equal(apply(affine, apply(affine.inverse(), x)), x)


@given(st.data(), SHAPES)
def test_trim(data: st.DataObject, shape: tuple) -> None:
    array = integers(data.draw, *shape)
    x = integers(data.draw, 2, 3, 4)
    assert np.array_equal(array * x, trim(array) * x)
    assert trim(array).ndim == 0 or trim(array).shape[0] != 1
    assert trim(array).dtype == np.float64


@pytest.mark.parametrize(
    ("affine", "answers"),
    [
        (Affine.of(), (False, False, True, True)),
        (Affine.of([1.0, 2.0]), (True, False, True, True)),
        (Affine.of(1.0, [0.0, 1.0]), (False, True, True, True)),
        (Affine.of([1.0, 0.0]), (True, False, False, True)),
        (Affine.of([1.0, np.nan]), (True, False, False, False)),
        (Affine.of(1.0, [np.inf]), (False, True, False, False)),
    ],
)
def test_questions(affine: Affine, answers: tuple[bool, ...]) -> None:
    assert (affine.scales, affine.shifts, affine.invertible, affine.finite) == answers


def test_shape_and_scale() -> None:
    affine = Affine.of(np.ones((3, 1)) * 2, np.ones(4))
    assert affine.shape == (3, 4)
    assert not affine.only_scale().shifts
    assert np.array_equal(affine.only_scale().scale, affine.scale)


def test_constants_that_fit_a_value() -> None:
    wide = Affine.of(np.arange(1.0, 5.0), np.zeros((3, 1)))
    assert wide.fits((2, 3, 4))
    assert wide.fits((None, "n"))
    assert not wide.fits((2, 3, 5))
    assert not wide.fits((2, 4))
    assert not wide.fits((4,))
    assert Affine.of(2.0).fits(())
