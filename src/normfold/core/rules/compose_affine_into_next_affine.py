"""Compose an affine map with the affine operation that consumes it.

What it does:
    Two affine maps in a row become one that travels on, so that both can end in a linear operation. Where the next
    operation has room for the whole (a BatchNormalization, a Mul after a Mul, an Add after a shift), it ends there.

When it holds:
    Always, for finite constants that the next operation's type can hold.

Example:
    ``Relu -> BatchNormalization -> BatchNormalization`` becomes ``Relu -> BatchNormalization``.

Refused when:
    A constant is not a number (``finite``) or the composed constants exceed the type (``representable``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from normfold.core.algebra import Affine
from normfold.core.laws import collapse
from normfold.core.premises import FINITE, REPRESENTABLE
from normfold.core.rules.rule import FORWARD, Carry, Rule, Step, Target
from normfold.core.rules.shared import constants_fit, finite, held_by
from normfold.core.views import AffineOp


def _representable(carry: Carry[AffineOp, Affine]) -> str | None:
    return constants_fit(carry.view, carry.view.affine.after(carry.map), carry.label)


def _steps(carry: Carry[AffineOp, Affine]) -> Iterable[Step]:
    view, whole = carry.view, carry.view.affine.after(carry.map)
    if held_by(view, whole):
        yield Step(view=replace(view, affine=whole))
    yield Step(remove=True, onward=(Target(FORWARD, view.outputs[0], whole),))


RULE = Rule(
    name="compose_affine_into_next_affine",
    law=collapse.LAW,
    map=Affine,
    directions=(FORWARD,),
    view=AffineOp,
    premises=((FINITE, finite), (REPRESENTABLE, _representable)),
    steps=_steps,
)
