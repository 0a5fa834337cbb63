"""Matrices in blocks of four bits."""

from __future__ import annotations

import numpy as np
import pytest

from normfold.core.integers.blocks import coded


def matrix(outputs: int = 12, inputs: int = 70) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((outputs, inputs))


@pytest.mark.parametrize("size", [16, 32, 128])
def test_a_weight_is_within_half_a_step_or_was_cut_off(size):
    held = matrix()
    codes = coded(held, size)
    found = codes.matrix(held.shape[1])
    steps = np.repeat(codes.scales.astype(np.float64), size, axis=1)[:, : held.shape[1]]
    flat = codes.codes.reshape(len(held), -1)[:, : held.shape[1]]
    at_the_end = (flat == 0) | (flat == 15)
    assert (np.abs(found - held) <= 0.5001 * steps)[~at_the_end].all()
    assert np.square(found - held).mean() < 0.02 * held.var()


def test_what_four_bits_hold_is_held_exactly():
    held = np.random.default_rng(1).integers(-8, 8, (4, 64)).astype(np.float64)
    held[:, ::32], held[:, 1::32] = -8, 7
    assert np.array_equal(coded(held, 32).matrix(64), held)


def test_inputs_that_matter_cost_others_their_accuracy():
    held = matrix()
    held[:, 3] = 9.0  # one large weight in each row
    importance = np.ones(held.shape[1])
    importance[3] = 0.0
    plain, weighted = (coded(held, 32, one).matrix(held.shape[1]) for one in (None, importance))
    others = np.arange(held.shape[1]) != 3
    assert np.square(weighted - held)[:, others].sum() < np.square(plain - held)[:, others].sum()


def test_codes_lie_two_in_a_byte_and_zero_points_fill_whole_bytes():
    codes = coded(matrix(), 16)  # five blocks: an odd number
    packed, zeros = codes.packed(), codes.packed_zeros().reshape(12, 3)
    assert packed.shape == (12, 5, 8)
    assert np.array_equal(packed & 15, codes.codes[..., 0::2])
    assert np.array_equal(packed >> 4, codes.codes[..., 1::2])
    assert np.array_equal(zeros & 15, codes.zeros[:, 0::2])
    assert np.array_equal(zeros[:, :2] >> 4, codes.zeros[:, 1::2])
