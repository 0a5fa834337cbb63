"""Second moments of windows, drawn while data stream by."""

import numpy as np
import pytest

from normfold.runtime.workers.patches import DRAWN, ENOUGH, Patches

NONE = {"kernel": [], "strides": [], "dilations": [], "begins": [], "ends": []}


def windows(values, kernel, strides, dilations, begins, ends):
    """All of them, ``[windows, channels, taps]``, one by one."""
    padded = np.pad(values, [(0, 0), (0, 0), *zip(begins, ends, strict=True)])
    found = []
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    for y in range(0, padded.shape[2] - reach[0] + 1, strides[0]):
        for x in range(0, padded.shape[3] - reach[1] + 1, strides[1]):
            part = padded[:, :, y : y + reach[0] : dilations[0], x : x + reach[1] : dilations[1]]
            found.append(part.reshape(len(values), values.shape[1], -1))
    return np.concatenate(found)


@pytest.mark.parametrize("strides", [[1, 1], [2, 1]])
@pytest.mark.parametrize("dilations", [[1, 1], [1, 2]])
@pytest.mark.parametrize("groups", [1, 2])
def test_moments_tend_to_those_of_all_windows(strides, dilations, groups):
    values = np.random.default_rng(0).standard_normal((2, 4, 7, 9)).astype(np.float32).cumsum(axis=2) + 1
    spec = {"kernel": [3, 2], "strides": strides, "dilations": dilations, "begins": [1, 0], "ends": [1, 2]}
    found = Patches(groups=groups, **spec)
    # What has been drawn is forgotten in between, so that no more than 8 for each element is no limit here.
    parts = []
    for turn in range(40):
        found.rows = 0
        found.add(values, turn)
        parts.append((found.total / found.rows, found.products / found.rows))
    whole = windows(values, **spec).reshape(-1, groups, 24 // groups).transpose(1, 0, 2)
    mean, square = (np.mean(one, axis=0) for one in zip(*parts, strict=True))
    assert np.abs(mean - whole.mean(1)).max() < 0.1 * whole.std()
    assert np.abs(square - whole.transpose(0, 2, 1) @ whole / whole.shape[1]).max() < 0.1 * np.square(whole).mean()


def test_a_window_with_one_place_is_what_it_is():
    values = np.arange(18, dtype=np.float32).reshape(1, 2, 3, 3)
    found = Patches(groups=1, kernel=[3, 3], strides=[1, 1], dilations=[1, 1], begins=[0, 0], ends=[0, 0])
    found.add(values, 7)
    assert found.rows == DRAWN
    assert np.array_equal(found.total, DRAWN * values.reshape(1, 18))
    assert np.array_equal(found.products[0], DRAWN * np.outer(values, values))


def test_rows_of_products_are_drawn_from_all_leading_axes():
    values = np.zeros((2, 3, 4), np.float32)
    values[1, 2] = np.arange(4)
    found = Patches(groups=1, **NONE)
    found.add(values, 0)
    assert np.array_equal(found.total[0] / found.total[0, 1], np.arange(4))
    assert 0 < found.total[0, 1] < DRAWN


def test_no_more_is_drawn_than_is_needed_and_the_same_each_time():
    values = np.random.default_rng(0).standard_normal((5, 6)).astype(np.float32)
    first, second = Patches(groups=1, **NONE), Patches(groups=1, **NONE)
    for turn in range(100):
        first.add(values, turn)
        second.add(values, turn)
    assert first.rows == DRAWN * -(-ENOUGH * 6 // DRAWN)
    assert np.array_equal(first.products, second.products)


def test_what_is_not_finite_is_left_out():
    found = Patches(groups=1, **NONE)
    found.add(np.full((4, 6), np.nan, np.float32), 0)
    found.add(np.zeros((0, 6), np.float32), 1)
    assert found.rows == 0
