"""``P(W x + b) = W P(x) + P(b)``: a pointwise convolution and an average over positions change places.

One mixes channels at each position, the other positions of each channel; both are linear. ``P(b) = b`` where the
weights of every average add up to one.

Premises: the convolution looks at one position, with a stride of one and without padding, and its axes are not those
that are averaged; nothing else reads what it makes. Where zeros of a padding take part in an average, ``b`` is zero.

Counter-example: ``W = 0, b = 1`` before an average that counts one zero of its padding among four: 0.75, not 1.
"""

from __future__ import annotations

from normfold.core.laws.law import Law
from normfold.core.premises import EVERY_TAP, NOT_POOLED_AXIS, SINGLE_USE

LAW = Law(
    name="pooled",
    identity="P(W x + b) = W P(x) + P(b)",
    premises=(SINGLE_USE, NOT_POOLED_AXIS, EVERY_TAP),
    counter_example="W = 0, b = 1 before an average of which a quarter is padding: 0.75, not 1",
)
