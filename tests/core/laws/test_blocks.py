"""``a (s (q - z)) c = (a s c) (q - z)``, exactly; the counter-example is a scale that differs within a block."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from linear_reference import integers, powers
from normfold.core.laws.blocks import rescale_blocks

SIZE = 4


def values(codes: np.ndarray, zeros: np.ndarray, scales: np.ndarray) -> np.ndarray:
    blocks = codes.reshape(*scales.shape, SIZE)
    return ((blocks - zeros[..., None]) * scales[..., None]).reshape(len(codes), -1)


@given(st.data())
def test_blocks(data: st.DataObject) -> None:
    codes, zeros, scales = integers(data.draw, 3, 8), integers(data.draw, 3, 2), powers(data.draw, 3, 2)
    rows, blocks = powers(data.draw, 3), powers(data.draw, 2)
    columns = np.repeat(blocks, SIZE)
    for given_rows, given_columns in ((rows, None), (None, columns), (rows, columns), (None, None)):
        new = rescale_blocks(scales, SIZE, given_rows, given_columns)
        assert new is not None
        wanted = values(codes, zeros, scales)
        wanted = wanted if given_rows is None else rows[:, None] * wanted
        assert np.array_equal(values(codes, zeros, new), wanted if given_columns is None else wanted * columns)


def test_the_last_block_may_be_short() -> None:
    new = rescale_blocks(np.ones((1, 2)), SIZE, None, np.array([2.0, 2, 2, 2, 3]))
    assert new is not None
    assert np.array_equal(new, [[2, 3]])


def test_counter_example() -> None:
    assert rescale_blocks(np.ones((1, 1)), 2, None, np.array([1.0, 3.0])) is None
