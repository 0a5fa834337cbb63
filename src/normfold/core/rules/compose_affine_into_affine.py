"""Compose an affine map with the affine operation before it.

What it does:
    Two affine maps in a row become one. Where the first operation has room for the whole (a BatchNormalization), it
    takes it. Where it has room for the shift only (the Add after a MatMul), it keeps the shift and the scale goes on
    to its producer. Else the first operation goes and the whole map travels on.

When it holds:
    Always, for finite constants that the first operation's type can hold.

Example:
    ``BatchNormalization -> Mul -> Add`` becomes ``BatchNormalization``; ``MatMul -> Add -> BatchNormalization``
    becomes ``MatMul -> Add``.

Refused when:
    A constant is not a number (``finite``) or the composed constants exceed the type (``representable``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from normfold.core.algebra import Affine
from normfold.core.laws import collapse
from normfold.core.premises import FINITE, REPRESENTABLE
from normfold.core.rules.rule import BACKWARD, Carry, Rule, Step, Target
from normfold.core.rules.shared import constants_fit, finite, held_by
from normfold.core.views import AffineOp


def _representable(carry: Carry[AffineOp, Affine]) -> str | None:
    return constants_fit(carry.view, carry.map.after(carry.view.affine), carry.label)


def _steps(carry: Carry[AffineOp, Affine]) -> Iterable[Step]:
    view, whole = carry.view, carry.map.after(carry.view.affine)
    source = view.inputs[0]
    if not (whole.scales or whole.shifts):
        yield Step(remove=True)
        return
    yield Step(remove=True, onward=(Target(BACKWARD, source, whole),))
    if view.holds_shift and not view.affine.scales:
        shift = Affine.of(shift=whole.shift)
        yield Step(view=replace(view, affine=shift), onward=(Target(BACKWARD, source, carry.map.only_scale()),))
    if held_by(view, whole):
        yield Step(view=replace(view, affine=whole))


RULE = Rule(
    name="compose_affine_into_affine",
    law=collapse.LAW,
    map=Affine,
    directions=(BACKWARD,),
    view=AffineOp,
    premises=((FINITE, finite), (REPRESENTABLE, _representable)),
    steps=_steps,
)
