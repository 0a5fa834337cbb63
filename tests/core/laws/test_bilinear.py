"""``(a A) B = a (A B) = A (a B)``, exactly; the counter-example is a scale along what is summed over."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from linear_reference import integers, powers
from normfold.core.laws.bilinear import SUMMED, evened, is_even


@given(st.data())
def test_bilinear(data: st.DataObject) -> None:
    left, right = integers(data.draw, 2, 3, 4), integers(data.draw, 2, 4, 5)
    number, rows, columns = powers(data.draw), powers(data.draw, 3, 1), powers(data.draw, 1, 5)
    product = left @ right
    assert np.array_equal((number * left) @ right, number * product)
    assert np.array_equal(left @ (number * right), number * product)
    assert np.array_equal((rows * left) @ right, rows * product)
    assert np.array_equal(left @ (columns * right), columns * product)


def test_counter_example() -> None:
    ones = np.ones((1, 2))
    assert ones @ ones.T == 2
    assert (np.array([1, 3]) * ones) @ ones.T == 4


def test_which_scale_is_even() -> None:
    along_rows, along_columns = np.arange(3.0).reshape(3, 1), np.arange(3.0)
    assert [is_even(along_rows, axis) for axis in SUMMED] == [True, False]
    assert [is_even(along_columns, axis) for axis in SUMMED] == [False, True]
    same = np.full((2, 3), 5.0)
    assert [evened(same, axis).shape for axis in SUMMED] == [(2, 1), (1, 3)]
    assert evened(np.float64(2), -1).shape == ()
