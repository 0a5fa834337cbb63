"""Carry a permutation of channels past an operation that only moves elements.

What it does:
    Goes on beyond the operation with the same permutation, along the axis where the channels then are.

When it holds:
    All channels are, in the order that they had, along one axis of every output.

Example:
    ``Gather([2, 1, 0]) -> Transpose -> MatMul`` becomes ``Transpose -> MatMul``.

Refused when:
    The channels cannot be followed: they are mixed with others, or some are left out (``static-reshape``).

Law: `normfold.core.laws.permutation`.
"""

from __future__ import annotations

from collections.abc import Iterable

from normfold.core.algebra import Shuffle
from normfold.core.algebra.moves import followed
from normfold.core.laws import permutation
from normfold.core.premises import STATIC_RESHAPE
from normfold.core.rules.rule import FORWARD, Carry, Rule, Step, Target
from normfold.core.views import Moving


def _axes(carry: Carry[Moving, Shuffle]) -> list[int | None]:
    axis, size = carry.map.axis, len(carry.map.order)
    return [followed(move, axis, size, backward=False) for move in carry.view.moves]


def _static_reshape(carry: Carry[Moving, Shuffle]) -> str | None:
    if None not in _axes(carry):
        return None
    return f"the channels that change places cannot be followed through {carry.label}"


def _steps(carry: Carry[Moving, Shuffle]) -> Iterable[Step]:
    ends = zip(carry.view.outputs, _axes(carry), strict=True)
    yield Step(
        onward=tuple(Target(FORWARD, value, Shuffle(axis, carry.map.order)) for value, axis in ends if axis is not None)
    )


RULE = Rule(
    name="carry_shuffle_through_move",
    law=permutation.LAW,
    map=Shuffle,
    view=Moving,
    directions=(FORWARD,),
    premises=((STATIC_RESHAPE, _static_reshape),),
    steps=_steps,
)
