"""Premises and steps that several rules share."""

from __future__ import annotations

import numpy as np

from normfold.algebra import Affine
from normfold.algebra.moves import Dim
from normfold.ops import AffineOp, Linear, View
from normfold.rules.rule import BACKWARD, Carry, Step, Target, V

UNSEEN = 1e30
"""No trained weight is as large as this: one need not be read to see that it stays below a far larger number."""


def finite(carry: Carry[V]) -> str | None:
    """Every constant of the map is a number."""
    if carry.affine.finite:
        return None
    return "its scale or shift is infinite or not a number (a variance plus epsilon of zero, or bad statistics)"


def held_by(view: AffineOp, affine: Affine) -> bool:
    """Whether ``view`` has room for ``affine`` instead of its own map."""
    if not (view.holds_scale or view.holds_shift):
        return False
    if (affine.scales and not view.holds_scale) or (affine.shifts and not view.holds_shift):
        return False
    if view.axis is None:
        return True
    return all(
        size == 1
        for constant in (affine.scale, affine.shift)
        for k, size in enumerate(constant.shape, -constant.ndim)
        if k != view.axis
    )


def in_range(view: AffineOp, affine: Affine) -> bool:
    """Whether the constants of ``affine`` fit the type of ``view``."""
    return all(float(np.abs(c).max(initial=0.0)) <= view.largest for c in (affine.scale, affine.shift))


def linear_in_range(view: Linear) -> bool:
    """Whether the weight and bias of ``view`` fit the weight's type."""
    if view.bias is not None and float(np.abs(view.bias).max(initial=0.0)) > view.largest:
        return False
    gain = view.weight.gain
    return gain <= 1 or gain * UNSEEN <= view.largest or view.weight.magnitude() <= view.largest


def scale_sign(carry: Carry[V]) -> str | None:
    """No scale is negative."""
    negative = int((carry.affine.scale < 0).sum())
    if not negative:
        return None
    return f"{negative} of {carry.affine.scale.size} scales are negative, and {carry.label} does not commute with those"


def fits(affine: Affine, shape: tuple[Dim, ...] | None) -> bool:
    """Whether the constants of ``affine`` broadcast into a value of ``shape`` without enlarging it."""
    wanted = affine.shape
    if shape is None or len(wanted) > len(shape):
        return not wanted and shape is not None
    return all(size in (1, dim) for size, dim in zip(wanted, shape[len(shape) - len(wanted) :], strict=True))


def onward(carry: Carry[V], affine: Affine, view: View | None = None) -> Step:
    """The step that sends ``affine`` on to the other side of an operation with one input and one output."""
    value = carry.view.inputs[0] if carry.direction == BACKWARD else carry.view.outputs[0]
    return Step(view=view, onward=(Target(carry.direction, value, affine),))
