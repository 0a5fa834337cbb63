"""Carry an affine map towards its producer, past an operation that only moves elements.

What it does:
    Rearranges the map's constants as the Transpose, Reshape, Flatten, Squeeze or Identity rearranges the value, and
    goes on with the operation's input.

When it holds:
    The channels can be followed: the dimensions they live in are known on both sides.

Example:
    ``MatMul -> Transpose -> BatchNormalization`` becomes ``MatMul -> Add -> Transpose``, where the norm's channels are
    the matrix product's output channels.

Refused when:
    The move mixes the channels with others, or a dimension that matters is not known (``static-reshape``).

Law: `normfold.laws.routes`.
"""

from __future__ import annotations

from collections.abc import Iterable

from normfold.laws.routes import carry as carried
from normfold.ops import Moving
from normfold.rules.rule import BACKWARD, Carry, Rule, Step, Target


def _static_reshape(carry: Carry[Moving]) -> str | None:
    if carried(carry.view.moves[carry.port], carry.affine, backward=True) is not None:
        return None
    return f"the channels cannot be followed through {carry.label}: it mixes them, or its shape is not known"


def _steps(carry: Carry[Moving]) -> Iterable[Step]:
    before = carried(carry.view.moves[carry.port], carry.affine, backward=True)
    if before is not None:
        yield Step(onward=(Target(BACKWARD, carry.view.inputs[0], before),))


RULE = Rule(
    name="carry_affine_back_through_move",
    direction=BACKWARD,
    view=Moving,
    premises=(("static-reshape", _static_reshape),),
    steps=_steps,
)
