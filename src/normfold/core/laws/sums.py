"""``a*(x + z) + d = (a x + d) + a z``: the scale goes to every term of a sum, the shift to exactly one.

Premises: no term is broadcast along an axis that ``a`` or ``d`` varies along.

Counter-example: the shift given to both terms counts twice; the scale given to one leaves the other unscaled.
"""

from __future__ import annotations

from normfold.core.laws.law import Law
from normfold.core.premises import SAME_SHAPE, SINGLE_USE

LAW = Law(
    name="sums",
    identity="a*(x + z) + d = (a x + d) + a z",
    premises=(SAME_SHAPE, SINGLE_USE),
    counter_example="a*x + z is not a*(x + z)",
)
