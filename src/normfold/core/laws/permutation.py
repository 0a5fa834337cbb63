"""``W (P x) = (W P) x``: a permutation of the input channels goes into the columns of the weight.

``P x`` holds channel ``order[i]`` of ``x`` at place ``i``, so column ``i`` of the weight goes to place ``order[i]``.

Premises: the permutation runs along the operation's input channels, and leaves each in its group.

Counter-example: swapping the channels of a depthwise convolution. Each output sees the one channel of its group, so
that no arrangement of its weight makes it see another.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from normfold.core.algebra import Weight
from normfold.core.laws.law import Law
from normfold.core.premises import PER_INPUT_CHANNEL, SAME_GROUP

LAW = Law(
    name="permutation",
    identity="W (P x) = (W P) x",
    premises=(PER_INPUT_CHANNEL, SAME_GROUP),
    counter_example="a swap of channels before a depthwise convolution",
)


def permute_columns(weight: Weight, axis: int, sizes: Sequence[int], order: Sequence[int]) -> Weight | None:
    """The weight that takes ``x`` where it took the shuffled ``x``; ``None`` where a channel leaves its group.

    The input channels have the shape ``sizes``; ``order`` shuffles them along its ``axis``.
    """
    channels = np.arange(weight.in_channels).reshape(tuple(sizes))
    return weight.take_columns(np.take(channels, np.argsort(order), axis=axis).reshape(-1))
