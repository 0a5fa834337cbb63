"""Carry the subtraction of a mean over channels past an operation that only moves elements.

What it does:
    Goes on to the producer with the same subtraction, along the axis where the channels were.

When it holds:
    All channels are, in the order that they had, along one axis on both sides. What the operation leaves out besides
    is centred, too.

Example:
    ``MatMul -> Unsqueeze -> LayerNormalization`` becomes ``MatMul -> Unsqueeze -> LayerNormalization``, which finds
    nothing to subtract.

Refused when:
    The channels cannot be followed: they are mixed with others, or some are left out (``static-reshape``).

Law: `normfold.core.laws.routes`.
"""

from __future__ import annotations

from collections.abc import Iterable

from normfold.core.algebra import Centring
from normfold.core.algebra.moves import followed
from normfold.core.laws import routes
from normfold.core.premises import STATIC_RESHAPE
from normfold.core.rules.rule import BACKWARD, Carry, Rule, Step, Target
from normfold.core.views import Moving


def _axis(carry: Carry[Moving, Centring]) -> int | None:
    return followed(carry.view.moves[carry.port], carry.map.axis, carry.map.size, backward=True)


def _static_reshape(carry: Carry[Moving, Centring]) -> str | None:
    if _axis(carry) is not None:
        return None
    return f"the channels that are to be centred cannot be followed through {carry.label}"


def _steps(carry: Carry[Moving, Centring]) -> Iterable[Step]:
    axis = _axis(carry)
    if axis is not None:
        yield Step(onward=(Target(BACKWARD, carry.view.inputs[0], Centring(axis, carry.map.size)),))


RULE = Rule(
    name="carry_centring_through_move",
    law=routes.LAW,
    map=Centring,
    view=Moving,
    directions=(BACKWARD,),
    premises=((STATIC_RESHAPE, _static_reshape),),
    steps=_steps,
)
