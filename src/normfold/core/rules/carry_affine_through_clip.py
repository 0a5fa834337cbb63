"""Carry an affine map past a Clip (ReLU6) by moving its bounds.

What it does:
    Goes on beyond the Clip with the same map and gives the Clip the bounds that the map makes of its own.

When it holds:
    The new bounds are the same for every channel, since a Clip has one pair.

Example:
    ``Conv -> Clip(0, 6) -> BatchNormalization``, a norm that doubles every channel, becomes ``Conv -> Clip(0, 12)``.

Refused when:
    Channels would need different bounds, or a scale is zero (``uniform-bounds``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from normfold.core.algebra import Affine
from normfold.core.laws import homogeneous
from normfold.core.laws.homogeneous import moved_bounds
from normfold.core.premises import UNIFORM_BOUNDS
from normfold.core.rules.rule import BACKWARD, EITHER, Carry, Rule, Step
from normfold.core.rules.shared import onward
from normfold.core.views import Clip


def _bounds(carry: Carry[Clip, Affine]) -> tuple[float, float] | None:
    affine = carry.map
    if carry.direction != BACKWARD:
        if not affine.invertible:
            return None
        affine = affine.inverse()
    return moved_bounds(affine, carry.view.low, carry.view.high)


def _uniform_bounds(carry: Carry[Clip, Affine]) -> str | None:
    if _bounds(carry) is not None:
        return None
    return f"past {carry.label}, each channel would need bounds of its own"


def _steps(carry: Carry[Clip, Affine]) -> Iterable[Step]:
    bounds = _bounds(carry)
    if bounds is not None:
        changed = None if bounds == (carry.view.low, carry.view.high) else bounds
        view = None if changed is None else replace(carry.view, low=changed[0], high=changed[1])
        yield onward(carry, carry.map, view=view)


RULE = Rule(
    name="carry_affine_through_clip",
    law=homogeneous.LAW,
    map=Affine,
    directions=EITHER,
    view=Clip,
    premises=((UNIFORM_BOUNDS, _uniform_bounds),),
    steps=_steps,
)
