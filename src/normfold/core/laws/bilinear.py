"""``(a A) B = a (A B) = A (a B)``: a scale of a matrix product of two values is one of either factor.

``a`` varies along the rows, then it is a scale of ``A``, or along the columns, then of ``B``, or along neither.

Premises: there is no shift, and the scale does not vary along the axis that the product sums over.

Counter-example: ``a`` along the columns of ``A``: ``[1, 1] @ [1, 1]^T`` is 2, with ``a = [1, 3]`` it is 4, and no scale
of 2 that knows nothing of the terms makes that of every other pair.
"""

from __future__ import annotations

import numpy as np

from normfold.core.algebra.affine import Array
from normfold.core.laws.law import Law
from normfold.core.premises import NO_SHIFT, NOT_SUMMED_AXIS

LAW = Law(
    name="bilinear",
    identity="(a A) B = a (A B) = A (a B)",
    premises=(NO_SHIFT, NOT_SUMMED_AXIS),
    counter_example="a along the columns of A, which the product sums over",
)

SUMMED = (-1, -2)
"""The axis of each factor that a matrix product sums over."""


def is_even(scale: Array, axis: int) -> bool:
    """Whether ``scale``, right-aligned with a value, is the same all along ``axis`` (negative)."""
    if scale.ndim < -axis:
        return True
    return bool(np.all(scale == np.take(scale, [0], axis=axis)))


def evened(scale: Array, axis: int) -> Array:
    """A ``scale`` that is the same all along ``axis`` with size 1 there."""
    return scale if scale.ndim < -axis else np.take(scale, [0], axis=axis)
