"""Carry the subtraction of a mean over channels past arithmetic by constants.

What it does:
    Goes on to the producer with the same subtraction; the operation's own shift gets the mean zero over the channels.
    An addition of a table (of positions) is such an operation.

When it holds:
    The scale is the same for all channels, and a shift that has another mean can be written.

Example:
    ``MatMul -> Add -> LayerNormalization`` becomes ``MatMul -> Add -> LayerNormalization``, which finds nothing to
    subtract.

Refused when:
    Channels have scales of their own (``uniform-scale``), there is no room for another shift (``room``), or it does
    not fit its type (``representable``).

Law: `normfold.core.laws.centring`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from normfold.core.algebra import Affine, Centring
from normfold.core.laws import centring
from normfold.core.premises import REPRESENTABLE, ROOM, UNIFORM_SCALE
from normfold.core.rules.rule import BACKWARD, Carry, Rule, Step
from normfold.core.rules.shared import constants_fit, onward
from normfold.core.views import AffineOp


def _uniform_scale(carry: Carry[AffineOp, Centring]) -> str | None:
    scale, axis = carry.view.affine.scale, carry.map.axis
    if scale.ndim < -axis or scale.shape[axis] == 1:
        return None
    return f"{carry.label} has a scale for each channel, and the mean over them is not that of its input"


def _centred(carry: Carry[AffineOp, Centring]) -> Affine:
    affine = carry.view.affine
    return Affine.of(affine.scale, carry.map.of(affine.shift))


def _room(carry: Carry[AffineOp, Centring]) -> str | None:
    view = carry.view
    if view.holds_shift or np.array_equal(_centred(carry).shift, view.affine.shift):
        return None
    return f"{carry.label} has no room for another shift"


def _representable(carry: Carry[AffineOp, Centring]) -> str | None:
    return constants_fit(carry.view, _centred(carry), carry.label)


def _steps(carry: Carry[AffineOp, Centring]) -> Iterable[Step]:
    view = replace(carry.view, affine=_centred(carry)) if carry.view.affine.shifts else None
    yield onward(carry, carry.map, view=view)


RULE = Rule(
    name="carry_centring_through_affine",
    law=centring.LAW,
    map=Centring,
    view=AffineOp,
    directions=(BACKWARD,),
    premises=((UNIFORM_SCALE, _uniform_scale), (ROOM, _room), (REPRESENTABLE, _representable)),
    steps=_steps,
)
