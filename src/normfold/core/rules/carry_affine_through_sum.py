"""Carry an affine map past an addition of branches.

What it does:
    Towards the producers, the scale goes to every branch and the shift to exactly one of them. Towards the consumers,
    a shift of one branch goes on as a shift of the sum.

When it holds:
    Every branch can take the scale: none is broadcast along an axis that the map varies along.

Example:
    ``Add(Conv, Conv) -> BatchNormalization`` becomes ``Add(Conv, Conv)``.

Refused when:
    A branch is broadcast, or its shape is not known (``same-shape``); towards the consumers, the map has a scale, which
    the other branches would need as well (``no-scale``).
"""

from __future__ import annotations

from collections.abc import Iterable

from normfold.core.algebra import Affine
from normfold.core.laws import sums
from normfold.core.premises import NO_SCALE, SAME_SHAPE
from normfold.core.rules.rule import BACKWARD, EITHER, FORWARD, Carry, Rule, Step, Target
from normfold.core.rules.shared import fits
from normfold.core.views import Sum


def _no_scale(carry: Carry[Sum, Affine]) -> str | None:
    if carry.direction == BACKWARD or not carry.map.scales:
        return None
    return f"{carry.label} adds a value that does not have this scale"


def _same_shape(carry: Carry[Sum, Affine]) -> str | None:
    if carry.direction == FORWARD or all(fits(carry.map, shape) for shape in carry.view.shapes):
        return None
    return f"{carry.label} broadcasts a branch, or its shapes are not known"


def _steps(carry: Carry[Sum, Affine]) -> Iterable[Step]:
    view, affine = carry.view, carry.map
    if carry.direction == FORWARD:
        yield Step(onward=(Target(FORWARD, view.outputs[0], Affine.of(shift=view.signs[carry.port] * affine.shift)),))
        return
    scale = affine.only_scale()
    for taker in range(len(view.inputs) if affine.shifts else 1):
        with_shift = Affine.of(affine.scale, view.signs[taker] * affine.shift)
        branches = [Target(BACKWARD, value, with_shift if k == taker else scale) for k, value in enumerate(view.inputs)]
        yield Step(onward=tuple(branches))


RULE = Rule(
    name="carry_affine_through_sum",
    law=sums.LAW,
    map=Affine,
    directions=EITHER,
    view=Sum,
    premises=((NO_SCALE, _no_scale), (SAME_SHAPE, _same_shape)),
    steps=_steps,
)
