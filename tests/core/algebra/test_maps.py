"""What all maps that travel can do, exactly: nothing is computed but sums of small integers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from normfold.core.algebra import Affine, Centring, Map, Offset, Shuffle

ORDERS = st.permutations(range(4)).map(tuple)
X = np.array([3.0, -1.0, 4.0, 2.0])


@given(first=ORDERS, second=ORDERS)
def test_a_shuffle_after_another(first: tuple[int, ...], second: tuple[int, ...]) -> None:
    both = Shuffle(-1, second).after(Shuffle(-1, first))
    assert np.array_equal(X[list(both.order)], X[list(first)][list(second)])


@given(order=ORDERS)
def test_a_shuffle_and_its_inverse(order: tuple[int, ...]) -> None:
    shuffle = Shuffle(-1, order)
    assert shuffle.inverse().after(shuffle).identity
    assert shuffle.identity == (order == (0, 1, 2, 3))


def test_centring_is_a_projection() -> None:
    centring = Centring(-1, 4)
    assert np.array_equal(centring.of(X), X - 2)
    assert np.array_equal(centring.of(centring.of(X)), centring.of(X))
    assert centring.after(centring) == centring
    assert not centring.identity


@pytest.mark.parametrize("constant", [np.float64(5), np.full((1,), 5.0), np.full((4, 1), 5.0)])
def test_what_does_not_vary_along_the_axis_is_its_mean(constant: np.ndarray) -> None:
    assert not Centring(-1, 4).of(constant).any()


def test_what_centring_loses_is_an_offset() -> None:
    assert Centring(-2, 4).inverse() == Offset(-2, 4)
    assert Offset(-2, 4).inverse().after(Offset(-2, 4)) == Offset(-2, 4)


@pytest.mark.parametrize(
    ("second", "first"),
    [(Shuffle(-1, (1, 0)), Shuffle(-2, (1, 0))), (Centring(-1, 4), Centring(-2, 4)), (Offset(-1, 4), Offset(-2, 4))],
)
def test_maps_along_two_axes_are_not_one(second: Shuffle, first: Shuffle) -> None:
    with pytest.raises(ValueError, match="along another axis"):
        second.after(first)


@pytest.mark.parametrize(
    ("travelling", "invertible"),
    [
        (Affine.of(2.0, 1.0), True),
        (Affine.of([1.0, 0.0]), False),
        (Affine.of(1e-310), False),
        (Shuffle(-1, (1, 0)), True),
        (Centring(-1, 4), True),
    ],
)
def test_what_readers_may_be_asked_to_undo(travelling: Map, invertible: bool) -> None:
    assert travelling.invertible == invertible
