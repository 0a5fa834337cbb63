"""Carry an offset that is the same for all channels past an average over positions, or an interpolation of them.

What it does:
    Goes on beyond the operation with another offset that is the same for all channels, which nobody knows either.

When it holds:
    Every output is the same weighted sum of its channel's elements, whichever channel it is.

Example:
    ``MatMul -> (LayerNormalization, ReduceMean(positions) -> LayerNormalization)`` becomes
    ``MatMul -> (LayerNormalization, ReduceMean(positions) -> LayerNormalization)``: neither norm sees whether the
    matrix product writes centred channels.

Refused when:
    It is a maximum (``averages``), or an average over the channels themselves (``not-pooled-axis``).

Law: `normfold.core.laws.routes`.
"""

from __future__ import annotations

from collections.abc import Iterable

from normfold.core.algebra import Offset
from normfold.core.laws import routes
from normfold.core.premises import AVERAGES, NOT_POOLED_AXIS
from normfold.core.rules.rule import FORWARD, Carry, Rule, Step, Target
from normfold.core.rules.shared import blended_axis, no_maximum
from normfold.core.views import Blend


def _not_pooled_axis(carry: Carry[Blend, Offset]) -> str | None:
    if blended_axis(carry.view, carry.map, carry.direction) is not None:
        return None
    return f"{carry.label} takes its average over the channels, or these cannot be followed through it"


def _steps(carry: Carry[Blend, Offset]) -> Iterable[Step]:
    axis = blended_axis(carry.view, carry.map, carry.direction)
    if axis is not None:
        yield Step(onward=(Target(FORWARD, carry.view.outputs[0], Offset(axis, carry.map.size)),))


RULE = Rule(
    name="carry_offset_through_pool",
    law=routes.LAW,
    map=Offset,
    view=Blend,
    directions=(FORWARD,),
    premises=((AVERAGES, no_maximum), (NOT_POOLED_AXIS, _not_pooled_axis)),
    steps=_steps,
)
