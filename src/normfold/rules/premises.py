"""Premises that several rules share."""

from __future__ import annotations

import numpy as np

from normfold.algebra import Affine
from normfold.ops import AffineOp, View
from normfold.rules.rule import Carry


def finite(carry: Carry[View]) -> str | None:
    """Every constant of the map is a number."""
    if carry.affine.finite:
        return None
    return "its scale or shift is infinite or not a number (a variance plus epsilon of zero, or bad statistics)"


def held_by(view: AffineOp, affine: Affine) -> bool:
    """Whether ``view`` has room for ``affine`` instead of its own map."""
    if (affine.scales and not view.holds_scale) or (affine.shifts and not view.holds_shift):
        return False
    if view.axis is None:
        return True
    return all(
        size == 1 for constant in (affine.scale, affine.shift) for k, size in enumerate(constant.shape, -constant.ndim)
        if k != view.axis
    )


def in_range(view: AffineOp, affine: Affine) -> bool:
    """Whether the constants of ``affine`` fit the type of ``view``."""
    return all(float(np.abs(c).max(initial=0.0)) <= view.largest for c in (affine.scale, affine.shift))
