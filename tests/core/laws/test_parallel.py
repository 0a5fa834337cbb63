"""Convolutions of one input that are added are one convolution, exactly."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from linear_reference import Convolution, Stored, integers, powers
from normfold.core.algebra import Weight, Window
from normfold.core.laws.parallel import diagonal, embed, spread


def convolution(kernel: np.ndarray, window: Window) -> Convolution:
    return Convolution(
        Weight(Stored(kernel), kernel.shape, "goi"), window.strides, window.dilations, window.begins, window.ends
    )


@st.composite
def windows(draw: st.DrawFn) -> tuple[Window, Window]:
    """Two windows in one or two dimensions, which may or may not fit together."""
    rank = draw(st.integers(1, 2))

    def one(size: int) -> list[int]:
        return [draw(st.integers(1, size)) for _ in range(rank)]

    strides = tuple(one(2))
    made = []
    for size in (4, 3):
        begins, ends = ([draw(st.integers(0, 2)) for _ in range(rank)] for _ in range(2))
        made.append(Window(tuple(one(size)), strides, tuple(one(2)), tuple(begins), tuple(ends)))
    return made[0], made[1]


@given(st.data(), windows(), st.integers(1, 2))
def test_embedding(data: st.DataObject, pair: tuple[Window, Window], groups: int) -> None:
    large, small = pair
    placement = large.placement(small)
    if placement is None:
        return
    x = integers(data.draw, 2, 2 * groups, *[9] * len(large.kernel))
    first, second = (integers(data.draw, groups, 2, 2, *window.kernel) for window in pair)
    merged = first + embed(second, placement, large.kernel)
    apart = convolution(first, large)(x) + convolution(second, small)(x)
    assert np.array_equal(convolution(merged, large)(x), apart)


@given(windows())
def test_windows_of_other_output_sizes_do_not_fit(pair: tuple[Window, Window]) -> None:
    large, small = pair
    x = np.zeros((1, 1, *[9] * len(large.kernel)))
    sizes = [convolution(np.zeros((1, 1, 1, *window.kernel)), window)(x).shape for window in pair]
    assert large.placement(small) is None or sizes[0] == sizes[1]


@given(st.data(), st.sampled_from([(1, 3), (2, 4), (3, 3)]))
def test_an_affine_map_as_a_kernel(data: st.DataObject, shape: tuple[int, int]) -> None:
    groups, channels = shape
    scale, x = powers(data.draw, channels), integers(data.draw, 2, channels, 5)
    kernel = diagonal(scale, groups, channels)[..., None]
    point = Window((1,), (1,), (1,), (0,), (0,))
    assert np.array_equal(convolution(kernel, point)(x), scale[:, None] * x)


@given(st.data(), st.sampled_from([(2,), (4,), (2, 4)]))
def test_an_average_as_a_kernel(data: st.DataObject, taps: tuple[int, ...]) -> None:
    """Counts that are powers of two keep it exact."""
    scale, x = powers(data.draw, 4), integers(data.draw, 2, 4, *[6] * len(taps))
    window = Window(taps, *((n,) * len(taps) for n in (1, 1, 0, 0)))
    views = np.lib.stride_tricks.sliding_window_view(x, taps, axis=tuple(range(2, 2 + len(taps))))
    mean = views.mean(axis=tuple(range(-len(taps), 0)))
    kernel = spread(diagonal(scale, 2, 4), taps)
    assert np.array_equal(convolution(kernel, window)(x), scale.reshape(-1, *[1] * len(taps)) * mean)


def test_counter_example_of_windows_centred_elsewhere() -> None:
    large = Window((3, 3), (2, 2), (1, 1), (0, 0), (0, 0))
    assert large.placement(Window((1, 1), (2, 2), (1, 1), (0, 0), (0, 0))) is None
