"""Carry an affine map past a Pad by moving the number it pads with.

What it does:
    Goes on beyond the Pad with the same map; a constant Pad gets the number that the map makes of its own.

When it holds:
    The map does not vary along the padded axes, and the new number is the same for every channel. Padding with copies
    (reflect, edge, wrap) passes every such map.

Example:
    ``Conv -> Pad(0) -> BatchNormalization``, a norm without a shift, becomes ``Conv -> Pad(0)``.

Refused when:
    The map varies along a padded axis (``not-padded-axis``) or channels would need different numbers
    (``uniform-padding``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from normfold.core.algebra import Affine
from normfold.core.laws import routes
from normfold.core.laws.homogeneous import common, moved_bounds
from normfold.core.premises import NOT_PADDED_AXIS, UNIFORM_PADDING
from normfold.core.rules.rule import BACKWARD, EITHER, Carry, Rule, Step
from normfold.core.rules.shared import onward
from normfold.core.views import Pad


def _not_padded_axis(carry: Carry[Pad, Affine]) -> str | None:
    sizes = carry.map.shape
    if all(-axis > len(sizes) or sizes[axis] == 1 for axis in carry.view.axes):
        return None
    return f"its constants vary along an axis that {carry.label} pads"


def _value(carry: Carry[Pad, Affine]) -> float | None:
    value, affine = carry.view.value or 0.0, carry.map
    if not affine.scale.all():
        # A channel that is constant pads with its constant; only a Pad of that very number says so.
        return None
    moved = moved_bounds(affine if carry.direction == BACKWARD else affine.inverse(), value, value)
    return None if moved is None else common(moved[0])


def _uniform_padding(carry: Carry[Pad, Affine]) -> str | None:
    if carry.view.value is None or _value(carry) is not None:
        return None
    return f"past {carry.label}, each channel would have to be padded with a number of its own"


def _steps(carry: Carry[Pad, Affine]) -> Iterable[Step]:
    value = None if carry.view.value is None else _value(carry)
    yield onward(carry, carry.map, view=None if value == carry.view.value else replace(carry.view, value=value))


RULE = Rule(
    name="carry_affine_through_pad",
    law=routes.LAW,
    map=Affine,
    directions=EITHER,
    view=Pad,
    premises=((NOT_PADDED_AXIS, _not_padded_axis), (UNIFORM_PADDING, _uniform_padding)),
    steps=_steps,
)
