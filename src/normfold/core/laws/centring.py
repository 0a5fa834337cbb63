"""``P (W x + b) = (P W) x + P b`` with ``P = I - 1 1^T / d``: the mean over channels goes into what writes them.

``P`` subtracts from each of ``d`` channels the mean of all. It is linear, so it goes to every term of a sum, and past a
scale that is the same for all channels: ``P (a x + b) = a (P x) + P b``. A linear operation writes centred channels
where the columns of its weight, and its bias, have the mean zero.

Premises: all channels are outputs of one matrix (one group); a scale on the way is the same for all of them.

Counter-example: two channels ``(x, 2 x)`` with the scales (1, 3): centred after the scale they are ``(-5/2, 5/2) x``,
scaled after the centring ``(-1/2, 3/2) x``.
"""

from __future__ import annotations

from normfold.core.algebra import Centring, Weight
from normfold.core.algebra.affine import Array, trim
from normfold.core.laws.law import Law
from normfold.core.premises import ONE_GROUP, UNIFORM_SCALE

LAW = Law(
    name="centring",
    identity="P (W x + b) = (P W) x + P b",
    premises=(ONE_GROUP, UNIFORM_SCALE),
    counter_example="P (a x) is not a (P x) where a is (1, 3)",
)


def centre_rows(weight: Weight, bias: Array | None, centring: Centring) -> tuple[Weight, Array | None]:
    """The weight and bias, right-aligned with the output, of an operation that writes ``P`` of what it wrote."""
    return weight.centre_rows(), None if bias is None else trim(centring.of(bias))
