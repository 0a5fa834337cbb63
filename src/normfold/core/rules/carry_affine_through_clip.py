"""Carry an affine map past a Clip (ReLU6), or a Max or Min by constants, by moving its bounds.

What it does:
    Goes on beyond the Clip with the same map and gives the Clip the bounds that the map makes of its own.

When it holds:
    The new bounds are the same for every channel, since a Clip has one pair. Max and Min by constants hold bounds for
    each channel, but on one side only.

Example:
    ``Conv -> Clip(0, 6) -> BatchNormalization``, a norm that doubles every channel, becomes ``Conv -> Clip(0, 12)``.

Refused when:
    Channels would need different bounds where the operation has one pair, a bound would change sides where it has one
    side, or a scale is zero (``uniform-bounds``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from normfold.core.algebra import Affine
from normfold.core.algebra.affine import Array
from normfold.core.laws import homogeneous
from normfold.core.laws.homogeneous import common, moved_bounds
from normfold.core.premises import UNIFORM_BOUNDS
from normfold.core.rules.rule import BACKWARD, EITHER, Carry, Rule, Step
from normfold.core.rules.shared import onward
from normfold.core.views import Clip


def _bounds(carry: Carry[Clip, Affine]) -> tuple[Array, Array] | None:
    affine = carry.map
    if carry.direction != BACKWARD:
        if not affine.invertible:
            return None
        affine = affine.inverse()
    return moved_bounds(affine, carry.view.low, carry.view.high)


def _uniform_bounds(carry: Carry[Clip, Affine]) -> str | None:
    view, bounds = carry.view, _bounds(carry)
    if bounds is None or (view.uniform and any(common(bound) is None for bound in bounds)):
        return f"past {carry.label}, each channel would need bounds of its own"
    held = zip(bounds, (view.holds_low, view.holds_high), strict=True)
    if any(bool(np.isfinite(bound).any()) and not room for bound, room in held):
        return f"past {carry.label}, a negative scale would make an upper bound of a lower one, or a lower of an upper"
    return None


def _steps(carry: Carry[Clip, Affine]) -> Iterable[Step]:
    view, bounds = carry.view, _bounds(carry)
    if bounds is None:
        return
    low, high = (bound.reshape(-1)[:1].reshape(()) if view.uniform and bound.size else bound for bound in bounds)
    same = np.array_equal(low, view.low) and np.array_equal(high, view.high)
    yield onward(carry, carry.map, view=None if same else replace(view, low=low, high=high))


RULE = Rule(
    name="carry_affine_through_clip",
    law=homogeneous.LAW,
    map=Affine,
    directions=EITHER,
    view=Clip,
    premises=((UNIFORM_BOUNDS, _uniform_bounds),),
    steps=_steps,
)
