"""``W (P x) = (W P) x``, exactly: nothing is computed, only moved."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from normfold.core.algebra import Shuffle, Weight
from normfold.core.laws.permutation import permute_columns


@dataclass(frozen=True)
class Stored:
    """A weight at rest."""

    values: np.ndarray

    def numpy(self) -> np.ndarray:
        return self.values


def weight(groups: int, inputs: int, order: str) -> Weight:
    """Small integers, so that sums are exact in any order."""
    split = (groups, 2, inputs, 3) if order == "goi" else (groups, inputs, 2, 3)
    values = np.random.default_rng(0).integers(-9, 9, split).astype(np.float64)
    factors = 2.0 ** np.arange(groups * inputs)
    return Weight(Stored(values), split, order).scale_columns(factors)


def product(held: Weight, x: np.ndarray) -> np.ndarray:
    """Each group's sums over its channels and taps."""
    return np.einsum("goit,git->go", held.canonical(), x.reshape(held.groups, held.in_per_group, 3))


@given(order=st.permutations(range(4)), layout=st.sampled_from(["goi", "gio"]))
def test_identity(order: list[int], layout: str) -> None:
    held = weight(1, 4, layout)
    x = np.random.default_rng(1).integers(-9, 9, (4, 3)).astype(np.float64)
    permuted = permute_columns(held, 0, (4,), order)
    assert permuted is not None
    assert np.array_equal(product(permuted, x), product(held, x[order]))


@given(first=st.permutations(range(2)), second=st.permutations(range(2)))
def test_identity_inside_groups(first: list[int], second: list[int]) -> None:
    held, order = weight(2, 2, "goi"), [*first, *(2 + k for k in second)]
    x = np.random.default_rng(1).integers(-9, 9, (4, 3)).astype(np.float64)
    permuted = permute_columns(held, 0, (4,), order)
    assert permuted is not None
    assert np.array_equal(product(permuted, x), product(held, x[order]))


@pytest.mark.parametrize("order", [[2, 1, 0, 3], [3, 2, 1, 0], [0, 2, 1, 3]])
def test_not_across_groups(order: list[int]) -> None:
    assert permute_columns(weight(2, 2, "goi"), 0, (4,), order) is None


def test_along_one_of_two_axes() -> None:
    held = weight(1, 6, "gio")
    x = np.random.default_rng(1).integers(-9, 9, (2, 3, 3)).astype(np.float64)
    permuted = permute_columns(held, 1, (2, 3), [2, 0, 1])
    assert permuted is not None
    assert np.array_equal(product(permuted, x.reshape(6, 3)), product(held, x[:, [2, 0, 1]].reshape(6, 3)))


@given(order=st.permutations(range(3)))
def test_a_shuffle_of_constants_and_back(order: list[int]) -> None:
    shuffle = Shuffle(-3, tuple(order))
    constants = np.arange(3.0).reshape(3, 1, 1)
    x = np.arange(12.0).reshape(3, 2, 2)
    moved = shuffle.forward(constants)
    assert moved is not None
    assert np.array_equal((x * constants)[order], x[order] * moved)
    assert np.array_equal(shuffle.backward(moved), constants)
    assert shuffle.forward(np.float64(2)) == 2
