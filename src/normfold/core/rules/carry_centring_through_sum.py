"""Carry the subtraction of a mean over channels past an addition of branches.

What it does:
    Goes on to the producer of every branch with the same subtraction.

When it holds:
    Every branch has all the channels.

Example:
    ``Add(MatMul, MatMul) -> LayerNormalization`` becomes ``Add(MatMul, MatMul) -> LayerNormalization``, which finds
    nothing to subtract.

Refused when:
    A branch is broadcast along the channels, or its shape is not known (``same-shape``).

Law: `normfold.core.laws.centring`.
"""

from __future__ import annotations

from collections.abc import Iterable

from normfold.core.algebra import Centring
from normfold.core.laws import centring
from normfold.core.premises import SAME_SHAPE
from normfold.core.rules.rule import BACKWARD, Carry, Rule, Step, Target
from normfold.core.views import Sum


def _same_shape(carry: Carry[Sum, Centring]) -> str | None:
    axis, size = carry.map.axis, carry.map.size
    if all(shape is not None and len(shape) >= -axis and shape[axis] == size for shape in carry.view.shapes):
        return None
    return f"not every branch of {carry.label} is known to have all {size} channels"


def _steps(carry: Carry[Sum, Centring]) -> Iterable[Step]:
    yield Step(onward=tuple(Target(BACKWARD, value, carry.map) for value in carry.view.inputs))


RULE = Rule(
    name="carry_centring_through_sum",
    law=centring.LAW,
    map=Centring,
    view=Sum,
    directions=(BACKWARD,),
    premises=((SAME_SHAPE, _same_shape),),
    steps=_steps,
)
