"""A pointwise convolution and an average over positions change places, exactly."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from linear_reference import Convolution, Stored, integers
from normfold.core.algebra import Weight

SIZE = 4


def pointwise(kernel: np.ndarray) -> Convolution:
    """The convolution with ``kernel``, [group, out, in, 1, 1]."""
    return Convolution(Weight(Stored(kernel), kernel.shape, "goi"), (1, 1), (1, 1), (0, 0), (0, 0))


def averaged(x: np.ndarray, padding: int, *, counted: bool) -> np.ndarray:
    """Averages of windows of two by two, with a stride of two: quarters of whole numbers are exact."""
    wide = np.pad(x, [(0, 0), (0, 0), (padding, padding), (padding, padding)])
    there = np.pad(np.ones(x.shape), [(0, 0), (0, 0), (padding, padding), (padding, padding)])
    blocks = (*x.shape[:2], wide.shape[2] // 2, 2, wide.shape[3] // 2, 2)
    total = wide.reshape(blocks).sum((3, 5))
    return total / (4 if counted else there.reshape(blocks).sum((3, 5)))


@given(st.data(), st.integers(1, 2), st.sampled_from([(0, True), (1, True), (1, False)]))
def test_places_change(data: st.DataObject, groups: int, pooling: tuple[int, bool]) -> None:
    padding, counted = pooling
    kernel, x = integers(data.draw, groups, 3, 2, 1, 1), integers(data.draw, 2, 2 * groups, SIZE, SIZE)
    # A bias is what every average must leave as it is.
    bias = np.zeros(3 * groups) if padding and counted else integers(data.draw, 3 * groups)
    convolution = pointwise(kernel)
    last = averaged(convolution(x, bias), padding, counted=counted)
    assert np.array_equal(convolution(averaged(x, padding, counted=counted), bias), last)


def test_counter_example_of_a_bias_before_a_padding_that_counts() -> None:
    convolution, x = pointwise(np.zeros((1, 1, 1, 1, 1))), np.zeros((1, 1, SIZE, SIZE))
    last = averaged(convolution(x, np.ones(1)), 1, counted=True)
    assert last[0, 0, 0, 0] == 0.25
    assert last[0, 0, 0, 1] == 0.5
    assert (convolution(averaged(x, 1, counted=True), np.ones(1)) == 1).all()
