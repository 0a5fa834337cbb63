"""Compose an affine map with the affine operation that consumes it.

What it does:
    A norm that no producer can take is absorbed by the affine operation after it, so that one remains of two.

When it holds:
    The next operation has room for the composed map: a BatchNormalization, or a Mul after a Mul.

Example:
    ``Mul -> BatchNormalization`` becomes ``BatchNormalization``.

Refused when:
    The next operation has no room for the composed map (``room``), a constant is not a number (``finite``), or the
    composed constants exceed the type (``representable``).

Law: `normfold.laws.collapse`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from normfold.ops import AffineOp
from normfold.rules.premises import finite, held_by, in_range
from normfold.rules.rule import FORWARD, Carry, Rule, Step


def _room(carry: Carry[AffineOp]) -> str | None:
    if held_by(carry.view, carry.view.affine.after(carry.affine)):
        return None
    return f"{carry.label} has no room for the composed scale and shift"


def _representable(carry: Carry[AffineOp]) -> str | None:
    if in_range(carry.view, carry.view.affine.after(carry.affine)):
        return None
    return f"the composed constants of {carry.label} exceed the largest number of their type"


def _steps(carry: Carry[AffineOp]) -> Iterable[Step]:
    yield Step(view=replace(carry.view, affine=carry.view.affine.after(carry.affine)))


RULE = Rule(
    name="compose_affine_into_next_affine",
    direction=FORWARD,
    view=AffineOp,
    premises=(("finite", finite), ("room", _room), ("representable", _representable)),
    steps=_steps,
)
