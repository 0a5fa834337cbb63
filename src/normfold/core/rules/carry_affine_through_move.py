"""Carry an affine map past an operation that only moves elements.

What it does:
    Rearranges the map's constants as the Transpose, Reshape, Flatten, Squeeze, Slice, Split or Identity rearranges the
    value, and goes on beyond it. Towards the producer of a Slice or Split, the channels that are not taken stay as
    they are.

When it holds:
    The channels can be followed: the dimensions they live in are known on both sides.

Example:
    ``MatMul -> Transpose -> BatchNormalization`` becomes ``MatMul -> Add -> Transpose``, where the norm's channels are
    the matrix product's output channels.

Refused when:
    The move mixes the channels with others, or a dimension that matters is not known (``static-reshape``).
"""

from __future__ import annotations

from collections.abc import Iterable

from normfold.core.algebra import Affine
from normfold.core.laws import routes
from normfold.core.laws.routes import carry as carried
from normfold.core.premises import STATIC_RESHAPE
from normfold.core.rules.rule import BACKWARD, EITHER, FORWARD, Carry, Rule, Step, Target
from normfold.core.views import Moving


def _moved(carry: Carry[Moving, Affine], output: int) -> Affine | None:
    return carried(carry.view.moves[output], carry.map, backward=carry.direction == BACKWARD)


def _static_reshape(carry: Carry[Moving, Affine]) -> str | None:
    outputs = [carry.port] if carry.direction == BACKWARD else range(len(carry.view.moves))
    if all(_moved(carry, output) is not None for output in outputs):
        return None
    return f"the channels cannot be followed through {carry.label}: it mixes them, or its shape is not known"


def _steps(carry: Carry[Moving, Affine]) -> Iterable[Step]:
    view = carry.view
    if carry.direction == BACKWARD:
        before = _moved(carry, carry.port)
        yield Step(onward=() if before is None else (Target(BACKWARD, view.inputs[0], before),))
        return
    after = [(value, _moved(carry, output)) for output, value in enumerate(view.outputs)]
    yield Step(onward=tuple(Target(FORWARD, value, affine) for value, affine in after if affine is not None))


RULE = Rule(
    name="carry_affine_through_move",
    law=routes.LAW,
    map=Affine,
    directions=EITHER,
    view=Moving,
    premises=((STATIC_RESHAPE, _static_reshape),),
    steps=_steps,
)
