"""Rounding to the least number of a type, which is the step between its subnormal numbers."""

from __future__ import annotations

from typing import Final

import numpy as np

from normfold.core.algebra.affine import Array

FAR: Final = 2.0**60
"""Steps from which a number is rounded to its own digits and not to the step: doubles have 53 of them."""


def rounded_away(values: Array, step: float) -> Array:
    """What ``values`` lose, with sign, where they are rounded to multiples of ``step``; 0 where they are far above it.

    Those are not divided by the step at all: a double of 1 in units of the least double overflows.
    """
    near = np.where(np.abs(values) < FAR * step, values, 0.0)
    lost: Array = near - step * np.rint(near / step)
    return lost
