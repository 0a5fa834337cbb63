"""``W2 (W1 x + b1) + b2 = (W2 W1) x + (W2 b1 + b2)``: two convolutions in a row, one of them pointwise, are one.

Premises: as many groups in both; nothing but the second reads what the first makes. Where the first is the pointwise
one and the second pads, the padding is of zeros while the first makes ``b1`` of zeros: then ``b1`` must be zero.

Counter-example: ``W1 = 0, b1 = 1`` before a padded 3x3 kernel of ones: 4 in a corner, 9 in the middle, and no kernel
over ``x`` makes that.

Source: Ding et al. 2021, arXiv 2103.13425, section 3.2 (transforms III and V of the diverse branch block).
"""

from __future__ import annotations

import numpy as np

from normfold.core.algebra.affine import Array
from normfold.core.laws.law import Law
from normfold.core.premises import EVERY_TAP, SINGLE_USE

LAW = Law(
    name="sequence",
    identity="W2 (W1 x + b1) + b2 = (W2 W1) x + (W2 b1 + b2)",
    premises=(SINGLE_USE, EVERY_TAP),
    counter_example="W1 = 0, b1 = 1 before a padded 3x3 of ones: 4 in a corner, 9 in the middle",
)


def product(second: Array, first: Array) -> Array:
    """The kernel of ``second`` after ``first``, [group, out, in, *taps]; one of the two has a single tap."""
    taps = first.shape[3:] if first[0, 0, 0].size > second[0, 0, 0].size else second.shape[3:]
    outer = second.reshape(*second.shape[:3], -1)
    inner = first.reshape(*first.shape[:3], -1)
    kernel: Array = np.einsum("gomk,gmil->goikl", outer, inner)
    return np.reshape(kernel, (*kernel.shape[:3], *taps))
