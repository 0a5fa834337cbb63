"""Carry a scale past a Relu, LeakyRelu or PRelu.

What it does:
    Goes on beyond the activation with the same scale.

When it holds:
    These activations are positively homogeneous, so every non-negative scale passes; a shift does not.

Example:
    ``Conv -> Relu -> Mul -> Conv``, with positive scales, becomes ``Conv -> Relu -> Conv``.

Refused when:
    A scale is negative (``non-negative-scale``) or there is a shift (``no-shift``).
"""

from __future__ import annotations

from collections.abc import Iterable

from normfold.core.algebra import Affine
from normfold.core.laws import homogeneous
from normfold.core.premises import NO_SHIFT, NON_NEGATIVE_SCALE
from normfold.core.rules.rule import EITHER, Carry, Rule, Step
from normfold.core.rules.shared import onward, scale_sign
from normfold.core.views import PositiveHomogeneous


def _no_shift(carry: Carry[PositiveHomogeneous, Affine]) -> str | None:
    if not carry.map.shifts:
        return None
    return f"a shift does not pass {carry.label}: f(x + d) is not f(x) + d"


def _steps(carry: Carry[PositiveHomogeneous, Affine]) -> Iterable[Step]:
    yield onward(carry, carry.map)


RULE = Rule(
    name="carry_scale_through_activation",
    law=homogeneous.LAW,
    map=Affine,
    directions=EITHER,
    view=PositiveHomogeneous,
    premises=((NON_NEGATIVE_SCALE, scale_sign), (NO_SHIFT, _no_shift)),
    steps=_steps,
)
