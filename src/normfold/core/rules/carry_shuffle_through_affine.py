"""Carry a permutation of channels past arithmetic by constants.

What it does:
    Goes on beyond the operation with the same permutation, and gives each channel's constants to the place where the
    channel now stands.

When it holds:
    The constants can be written, or are the same for all channels that change places.

Example:
    ``Gather([2, 1, 0]) -> BatchNormalization -> Conv(pads=1)`` becomes ``BatchNormalization -> Conv(pads=1)``.

Refused when:
    The operation has no room for constants in another order (``room``).

Law: `normfold.core.laws.permutation`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from normfold.core.algebra import Affine, Shuffle
from normfold.core.laws import permutation
from normfold.core.laws.routes import carry as carried
from normfold.core.premises import ROOM
from normfold.core.rules.rule import FORWARD, Carry, Rule, Step
from normfold.core.rules.shared import onward
from normfold.core.views import AffineOp


def _reordered(carry: Carry[AffineOp, Shuffle]) -> Affine | None:
    return carried(carry.map, carry.view.affine, backward=True)


def _same(first: Affine, second: Affine) -> bool:
    return np.array_equal(first.scale, second.scale) and np.array_equal(first.shift, second.shift)


def _room(carry: Carry[AffineOp, Shuffle]) -> str | None:
    view, affine = carry.view, _reordered(carry)
    if affine is not None and (_same(affine, view.affine) or view.holds_scale or view.holds_shift):
        return None
    return f"the constants of {carry.label} cannot be put in another order"


def _steps(carry: Carry[AffineOp, Shuffle]) -> Iterable[Step]:
    affine = _reordered(carry)
    if affine is not None:
        view = None if _same(affine, carry.view.affine) else replace(carry.view, affine=affine)
        yield onward(carry, carry.map, view=view)


RULE = Rule(
    name="carry_shuffle_through_affine",
    law=permutation.LAW,
    map=Shuffle,
    view=AffineOp,
    directions=(FORWARD,),
    premises=((ROOM, _room),),
    steps=_steps,
)
