"""Carry an offset that is the same for all channels past an operation that only moves elements.

What it does:
    Goes on beyond the operation with the same offset, along the axis where the channels then are.

When it holds:
    All channels are, in the order that they had, along one axis of every output.

Example:
    ``MatMul -> (LayerNormalization, Unsqueeze -> LayerNormalization)`` becomes
    ``MatMul -> (LayerNormalization, Unsqueeze -> LayerNormalization)``: neither norm sees whether the matrix product
    writes centred channels.

Refused when:
    The channels cannot be followed: they are mixed with others, or some are left out (``static-reshape``).

Law: `normfold.core.laws.routes`.
"""

from __future__ import annotations

from collections.abc import Iterable

from normfold.core.algebra import Offset
from normfold.core.algebra.moves import followed
from normfold.core.laws import routes
from normfold.core.premises import STATIC_RESHAPE
from normfold.core.rules.rule import FORWARD, Carry, Rule, Step, Target
from normfold.core.views import Moving


def _axes(carry: Carry[Moving, Offset]) -> list[int | None]:
    return [followed(move, carry.map.axis, carry.map.size, backward=False) for move in carry.view.moves]


def _static_reshape(carry: Carry[Moving, Offset]) -> str | None:
    if None not in _axes(carry):
        return None
    return f"the channels that get the same offset cannot be followed through {carry.label}"


def _steps(carry: Carry[Moving, Offset]) -> Iterable[Step]:
    ends = zip(carry.view.outputs, _axes(carry), strict=True)
    yield Step(
        onward=tuple(Target(FORWARD, value, Offset(axis, carry.map.size)) for value, axis in ends if axis is not None)
    )


RULE = Rule(
    name="carry_offset_through_move",
    law=routes.LAW,
    map=Offset,
    view=Moving,
    directions=(FORWARD,),
    premises=((STATIC_RESHAPE, _static_reshape),),
    steps=_steps,
)
