"""``norm(x + d) = norm(x)``: a shift that is the same wherever one mean is taken is subtracted with it.

InstanceNorm takes a mean over the positions of each channel, GroupNorm over those of a group of channels; the variance
does not see the shift either.

Premises: ``d`` is the same for all channels and positions that share a mean; the norm subtracts a mean (RMSNorm does
not).

Counter-example: two channels in one group, ``d = (0, 1)``: the mean moves by 1/2, the channels by 0 and 1.
"""

from __future__ import annotations

from normfold.core.algebra.affine import Array
from normfold.core.laws.law import Law
from normfold.core.premises import SAME_IN_GROUP

LAW = Law(
    name="means",
    identity="norm(x + d) = norm(x)",
    premises=(SAME_IN_GROUP,),
    counter_example="d = (0, 1) over two channels of one group",
)


def vanishes(shift: Array, axis: int, count: int) -> bool:
    """Whether ``shift``, right-aligned with the norm's input, is constant in each of ``count`` groups along ``axis``.

    ``axis`` is negative, and groups are of neighbouring channels. Axes before it are of the batch: a shift that varies
    along them is not looked at.
    """
    if shift.ndim > -axis:
        return False
    channels = shift.shape[0] if shift.ndim == -axis else 1
    groups = shift.reshape(count if channels > 1 else 1, -1)
    return bool((groups == groups[:, :1]).all())
