"""A pointwise convolution before or behind another one is a factor of its kernel, exactly."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from linear_reference import Convolution, Stored, integers
from normfold.core.algebra import Weight
from normfold.core.laws.sequence import product


def convolution(kernel: np.ndarray, stride: int = 1, padding: int = 0) -> Convolution:
    rank = kernel.ndim - 3
    weight = Weight(Stored(kernel), kernel.shape, "goi")
    return Convolution(weight, (stride,) * rank, (1,) * rank, (padding,) * rank, (padding,) * rank)


@given(st.data(), st.integers(1, 2), st.integers(1, 2), st.sampled_from([(3,), (2, 3)]), st.booleans())
def test_a_product_of_kernels(
    data: st.DataObject, groups: int, stride: int, taps: tuple[int, ...], pointwise_first: bool
) -> None:
    ones = (1,) * len(taps)
    first = integers(data.draw, groups, 3, 2, *(ones if pointwise_first else taps))
    second = integers(data.draw, groups, 2, 3, *(taps if pointwise_first else ones))
    x, bias = integers(data.draw, 2, 2 * groups, *[5] * len(taps)), integers(data.draw, 3 * groups)
    strides = (1, stride) if pointwise_first else (stride, 1)
    apart = convolution(second, strides[1])(convolution(first, strides[0])(x, bias))
    through = Weight(Stored(second), second.shape, "goi").contract(bias)
    assert np.array_equal(convolution(product(second, first), stride)(x, through), apart)


def test_counter_example_of_a_shift_before_padding() -> None:
    first, second, x = np.zeros((1, 1, 1, 1, 1)), np.ones((1, 1, 1, 3, 3)), np.zeros((1, 1, 5, 5))
    apart = convolution(second, padding=1)(convolution(first)(x, np.ones(1)))
    assert (apart[0, 0, 0, 0], apart[0, 0, 2, 2]) == (4, 9)
    merged = convolution(product(second, first), padding=1)(x, np.full(1, 9.0))
    assert not np.array_equal(merged, apart)
