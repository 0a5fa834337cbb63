"""``M(a x + d) = M(a) M(x) + M(d)``, exactly, both ways, for every move."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from linear_reference import apply, integers, powers
from normfold.core.algebra import Affine, Chain, Crop, Move, Permute, Regroup, Shuffle, Take
from normfold.core.laws.routes import carry

DIMS = st.lists(st.integers(1, 4), min_size=1, max_size=4)


def affine_for(data: st.DataObject, shape: tuple[int, ...]) -> Affine:
    """A map that broadcasts into ``shape``."""

    def part(values: Callable[..., np.ndarray]) -> np.ndarray:
        start = data.draw(st.integers(0, len(shape)))
        return values(data.draw, *(data.draw(st.sampled_from([1, size])) for size in shape[start:]))

    return Affine.of(part(powers), part(integers))


def check(
    data: st.DataObject, move: Move, do: Callable[[np.ndarray], np.ndarray], shape: tuple[int, ...]
) -> tuple[bool, bool]:
    """The law in both directions, where the move can carry; says in which it could."""
    x = integers(data.draw, *shape)
    affine = affine_for(data, shape)
    after = carry(move, affine, backward=False)
    if after is not None:
        assert np.array_equal(do(apply(affine, x)), apply(after, do(x)))
    affine = affine_for(data, do(x).shape)
    before = carry(move, affine, backward=True)
    if before is not None:
        assert np.array_equal(do(apply(before, x)), apply(affine, do(x)))
        assert apply(before, x).shape == x.shape
    return after is not None, before is not None


@given(st.data(), DIMS)
def test_permute(data: st.DataObject, shape: list[int]) -> None:
    order = tuple(data.draw(st.permutations(range(len(shape)))))
    assert check(data, Permute(order), lambda x: x.transpose(order), tuple(shape)) == (True, True)


@given(st.data(), DIMS)
def test_identity(data: st.DataObject, shape: list[int]) -> None:
    assert check(data, Permute(), lambda x: x, tuple(shape)) == (True, True)


@st.composite
def regroupings(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Two shapes of as many elements: factors joined in two ways, ones strewn in."""
    factors = draw(st.lists(st.sampled_from([2, 3, 4, 6]), min_size=1, max_size=4))

    def joined() -> tuple[int, ...]:
        dims = [1]
        for factor in draw(st.permutations(factors)) if draw(st.booleans()) else factors:
            if draw(st.booleans()):
                dims[-1] *= factor
            else:
                dims.append(factor)
            if draw(st.integers(0, 4)) == 0:
                dims.append(1)
        return tuple(dims)

    return joined(), joined()


@given(st.data(), regroupings())
def test_regroup(data: st.DataObject, shapes: tuple) -> None:
    source, target = shapes
    check(data, Regroup.between(source, target), lambda x: x.reshape(target), source)


@given(st.data(), regroupings())
def test_regroup_of_free_sizes(data: st.DataObject, shapes: tuple) -> None:
    """Names for some sizes: what is carried must be right for the sizes that they turn out to have."""
    source, target = shapes
    size = data.draw(st.sampled_from(source))
    hidden = data.draw(st.sampled_from([None, "N"]))
    i = source.index(size)
    named = (*source[:i], hidden, *source[i + 1 :])
    goal = list(target)
    if hidden is not None and size in target and prod(source[:i]) == prod(target[: target.index(size)]):
        goal[target.index(size)] = hidden
    elif hidden is None:
        goal[data.draw(st.integers(0, len(goal) - 1))] = None
    check(data, Regroup.between(named, goal), lambda x: x.reshape(target), source)


CARRIED = [
    (("N", 4, 6), ("N", 4, 2, 3), (4, 1), (4, 1, 1)),
    (("N", 4, 2, 3), ("N", 4, 6), (4, 1, 1), (4, 1)),
    (("N", 4, 2, 3), ("N", 24), (4, 1, 1), (24,)),
    (("N", 4, "H", "W"), ("N", 4, None), (4, 1, 1), (4, 1)),
    ((None, 4, 1, 1), (None, 4), (4, 1, 1), (4,)),
    (("N", 4), ("N", 4, 1, 1), (4,), (4, 1, 1)),
    (("N", "S", 8), (None, 8), (8,), (8,)),
    (("N", "S", 8), ("N", "S", 2, 4), (8,), (2, 4)),
    (("N", 6, "L"), ("N", 2, 3, "L"), (6, 1), (2, 3, 1)),
    ((2, 3, 4), (3, 2, 4), (4,), (4,)),
    ((1, 4, 1), (4,), (4, 1), (4,)),
]


@pytest.mark.parametrize(("source", "target", "before", "after"), CARRIED)
def test_what_a_regrouping_carries(
    source: tuple, target: tuple, before: tuple[int, ...], after: tuple[int, ...]
) -> None:
    array = np.arange(1.0, 1 + prod(before)).reshape(before)
    moved = Regroup.between(source, target).forward(array)
    assert moved is not None
    assert moved.shape == after
    rest = prod(d for d in source if isinstance(d, int)) // array.size
    back = Regroup.between(source, target).backward(moved)
    assert (
        rest < 1
        or back is None
        or np.array_equal(
            np.broadcast_to(back, np.broadcast_shapes(back.shape, before)),
            np.broadcast_to(array, np.broadcast_shapes(back.shape, before)),
        )
    )


NOT_CARRIED = [
    (("N", 4, "L"), ("N", "L", 4), (4, 1)),
    (("N", 4, "L"), (None, 4), (4, 1)),
    (("N", 4, "H", "W"), ("N", None), (4, 1, 1)),
    (("N", 4, 6), ("M", 6, 4), None),
    ((2, "C", 3), (2, 3, "C"), (3,)),
]


@pytest.mark.parametrize(("source", "target", "shape"), NOT_CARRIED)
def test_what_a_regrouping_does_not_carry(source: tuple, target: tuple, shape: tuple[int, ...] | None) -> None:
    if shape is None:
        shape = (4, 1)
        moved = Regroup.between(source, target).forward(np.arange(4.0).reshape(shape))
        assert moved is None or moved.size == 24
        return
    assert Regroup.between(source, target).forward(np.arange(1.0, 1 + prod(shape)).reshape(shape)) is None


def test_a_regrouping_of_an_empty_value() -> None:
    assert Regroup.between((0, 4), (0, 2, 4)).forward(np.arange(4.0)) is not False


@given(st.data(), st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 3)))
def test_take(data: st.DataObject, shape: tuple) -> None:
    start, step = data.draw(st.integers(0, shape[1] - 1)), data.draw(st.integers(1, 2))
    indices = range(shape[1])[start : data.draw(st.integers(start + 1, shape[1])) : step]
    assume(len(indices))
    move = Take(-2, shape[1], indices, shared=data.draw(st.booleans()))
    assert check(data, move, lambda x: x[:, indices.start : indices.stop : indices.step], shape) == (True, True)


@given(st.data())
def test_what_is_not_taken_stays(data: st.DataObject) -> None:
    affine = Affine.of(powers(data.draw, 2, 1), integers(data.draw, 2, 1))
    before = carry(Take(-2, 5, range(1, 3)), affine, backward=True)
    x = integers(data.draw, 2, 5, 3)
    assert np.array_equal(apply(before, x)[:, [0, 3, 4]], x[:, [0, 3, 4]])


def test_a_scalar_leaves_what_is_not_taken_alone() -> None:
    before = carry(Take(-2, 3, range(1, 2)), Affine.of(2.0, 5.0), backward=True)
    assert np.array_equal(np.broadcast_to(before.scale, (3, 1)), [[1], [2], [1]])
    assert np.array_equal(np.broadcast_to(before.shift, (3, 1)), [[0], [5], [0]])


@given(st.data())
def test_crop(data: st.DataObject) -> None:
    check(data, Crop((-1,)), lambda x: x[..., 1:3], (2, 3, 4))


def test_a_crop_does_not_carry_what_varies_along_it() -> None:
    assert Crop((-1,)).forward(np.arange(3.0)) is None
    assert Crop((-2,)).forward(np.arange(3.0)) is not None


@given(st.data(), st.permutations(range(4)))
def test_shuffle(data: st.DataObject, order: list[int]) -> None:
    assert check(data, Shuffle(-2, tuple(order)), lambda x: x[:, order], (2, 4, 3)) == (True, True)


@given(st.data())
def test_chain(data: st.DataObject) -> None:
    chain = Chain(
        (Permute((0, 2, 1)), Regroup.between((2, 6, 4), (2, 2, 3, 4)), Take(-1, 4, range(1, 3), shared=False))
    )
    check(data, chain, lambda x: x.transpose(0, 2, 1).reshape(2, 2, 3, 4)[..., 1:3], (2, 4, 6))


def test_counter_example_of_a_reshape_that_is_no_transpose() -> None:
    """[N, C, L] -> [N, L, C]: a constant for each channel becomes one for each element."""
    moved = Regroup.between((1, 2, 3), (1, 3, 2)).forward(np.array([[1.0], [2.0]]))
    assert moved is not None
    assert np.array_equal(moved, [[1, 1], [1, 2], [2, 2]])
