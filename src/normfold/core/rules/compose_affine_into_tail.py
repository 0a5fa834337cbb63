"""Compose an affine map with the scale and bias of the norm before it.

What it does:
    A LayerNorm, RMSNorm, GroupNorm or InstanceNorm ends in a scale and a bias of its own, which take the map.

When it holds:
    The map varies along the axes that the norm's own scale and bias vary along; a norm without a bias (RMSNorm) has no
    room for a shift, and one that is written out has none at all (see `normfold.core.rules.emit_norm`).

Example:
    ``LayerNormalization -> Mul -> Add`` becomes ``LayerNormalization``.

Refused when:
    The norm has no room for the map (``room``), a constant is not a number (``finite``), or the composed constants
    exceed the type (``representable``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from normfold.core.algebra import Affine
from normfold.core.laws import collapse
from normfold.core.premises import FINITE, REPRESENTABLE, ROOM
from normfold.core.rules.rule import BACKWARD, Carry, Rule, Step
from normfold.core.rules.shared import finite
from normfold.core.views import Norm


def _room(carry: Carry[Norm, Affine]) -> str | None:
    tail = carry.view.tail
    if tail is not None and not carry.view.parts:
        whole = carry.map.after(tail)
        own = tail.scale.shape
        inside = np.broadcast_shapes(own, whole.shape) == own if carry.map.shape else True
        if inside and (carry.view.holds_shift or not carry.map.shifts):
            return None
    return f"the scale and bias of {carry.label} have no room for it"


def _representable(carry: Carry[Norm, Affine]) -> str | None:
    tail = carry.view.tail
    whole = carry.map if tail is None else carry.map.after(tail)
    if all(float(np.abs(c).max(initial=0.0)) <= carry.view.largest for c in (whole.scale, whole.shift)):
        return None
    return f"the composed constants of {carry.label} exceed the largest number of their type"


def _steps(carry: Carry[Norm, Affine]) -> Iterable[Step]:
    if carry.view.tail is not None:
        yield Step(view=replace(carry.view, tail=carry.map.after(carry.view.tail)))


RULE = Rule(
    name="compose_affine_into_tail",
    law=collapse.LAW,
    map=Affine,
    directions=(BACKWARD,),
    view=Norm,
    premises=((FINITE, finite), (ROOM, _room), (REPRESENTABLE, _representable)),
    steps=_steps,
)
