"""Carry the subtraction of a mean over channels past an average over positions, or an interpolation of them.

What it does:
    Goes on to the producer with the same subtraction, along the axis where the channels then are.

When it holds:
    Every output is the same weighted sum of its channel's elements, whichever channel it is.

Example:
    ``MatMul -> ReduceMean(positions) -> LayerNormalization`` becomes
    ``MatMul -> ReduceMean(positions) -> LayerNormalization``, which finds nothing to subtract.

Refused when:
    It is a maximum (``averages``), or an average over the channels themselves (``not-pooled-axis``).

Law: `normfold.core.laws.routes`.
"""

from __future__ import annotations

from collections.abc import Iterable

from normfold.core.algebra import Centring
from normfold.core.laws import routes
from normfold.core.premises import AVERAGES, NOT_POOLED_AXIS
from normfold.core.rules.rule import BACKWARD, Carry, Rule, Step, Target
from normfold.core.rules.shared import blended_axis, no_maximum
from normfold.core.views import Blend


def _not_pooled_axis(carry: Carry[Blend, Centring]) -> str | None:
    if blended_axis(carry.view, carry.map, carry.direction) is not None:
        return None
    return f"{carry.label} takes its average over the channels, or these cannot be followed through it"


def _steps(carry: Carry[Blend, Centring]) -> Iterable[Step]:
    axis = blended_axis(carry.view, carry.map, carry.direction)
    if axis is not None:
        yield Step(onward=(Target(BACKWARD, carry.view.inputs[0], Centring(axis, carry.map.size)),))


RULE = Rule(
    name="carry_centring_through_pool",
    law=routes.LAW,
    map=Centring,
    view=Blend,
    directions=(BACKWARD,),
    premises=((AVERAGES, no_maximum), (NOT_POOLED_AXIS, _not_pooled_axis)),
    steps=_steps,
)
