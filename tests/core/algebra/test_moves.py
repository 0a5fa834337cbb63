"""How an axis is followed through a move."""

from __future__ import annotations

import numpy as np
import pytest

from normfold.core.algebra import Chain, Crop, Move, Permute, Regroup, Shuffle, Take
from normfold.core.algebra.moves import followed

CASES: dict[str, tuple[Move, int, int | None]] = {
    "identity": (Permute(), -1, -1),
    "transpose": (Permute((0, 2, 1)), -1, -2),
    "positions joined": (Regroup.between((2, 3, 5, 4), (2, 15, 4)), -1, -1),
    "channels split into heads": (Regroup.between((2, 3, 4), (2, 3, 2, 2)), -1, None),
    "channels joined with positions": (Regroup.between((2, 4, 3), (2, 12)), -2, None),
    "other positions taken": (Take(-2, 5, range(1, 3)), -1, -1),
    "channels taken": (Take(-1, 4, range(2)), -1, None),
    "channels in another order": (Shuffle(-1, (1, 0, 2, 3)), -1, None),
    "positions cropped": (Crop((-2,)), -1, -1),
    "one of several": (Chain((Take(-2, 5, range(1)), Regroup.between((2, 1, 4), (2, 4)))), -1, -1),
}


@pytest.mark.parametrize("case", CASES)
def test_an_axis_is_where_all_its_elements_are(case: str) -> None:
    move, axis, there = CASES[case]
    assert followed(move, axis, 4, backward=False) == there
    if there is not None:
        assert followed(move, there, 4, backward=True) == axis


def test_an_axis_of_one_element_cannot_be_told_from_others() -> None:
    assert followed(Permute(), -1, 1, backward=False) is None


def test_where_nothing_is_taken_nothing_is_carried() -> None:
    nothing = Take(-1, 3, range(3)[3:2])
    assert nothing.forward(np.arange(3.0)) is None
    assert nothing.backward(np.zeros(0), 1.0) is None


def test_a_constant_of_another_size_is_not_regrouped() -> None:
    """A model whose shapes contradict one another; a single element fits everywhere."""
    move = Regroup.between((6,), (2, 3))
    assert move.forward(np.ones(4)) is None
    assert move.backward(np.ones((2, 4))) is None
    wanted = move.forward(np.arange(6.0))
    assert wanted is not None
    assert np.array_equal(wanted, np.arange(6.0).reshape(2, 3))


def test_sizes_that_a_file_only_states() -> None:
    """Nothing of such a size is made, and what contradicts it is not carried."""
    far = Take(-1, 2**62, range(2**61))
    assert far.forward(np.arange(3.0)) is None
    assert far.backward(np.arange(3.0), 1.0) is None
    assert Take(-1, 2**40, range(3)).backward(np.arange(3.0), 1.0) is None
    assert Regroup.between((2**31, 3), (2**31 * 3,)).forward(np.arange(3.0)) is None


def test_what_a_flatten_repeats_its_reverse_takes_back() -> None:
    """PyTorch exports a pooling of a permuted image as a flatten and a Gather of all elements in order."""
    flat, back = Regroup.between((2, 3, 1), (6,)), Regroup.between((6,), (2, 3, 1))
    channels = np.array([[1.0], [2.0], [3.0]])
    repeated = flat.forward(channels)
    assert repeated is not None
    assert np.array_equal(repeated, [1, 2, 3, 1, 2, 3])
    again = back.forward(repeated)
    assert again is not None
    assert np.array_equal(again, channels)
    differing = back.forward(np.arange(6.0))
    assert differing is not None
    assert differing.shape == (2, 3, 1)
    alike = back.forward(np.ones(6))
    assert alike is not None
    assert alike.shape == (2, 3, 1)
