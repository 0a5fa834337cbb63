"""``W1 x + W2 x = (W1 + W2) x``: convolutions of one input that are added are one convolution.

Premises: the same input, strides, groups and output size; and every tap of the smaller kernel, at offset
``t*dilation - pad_begin``, is a tap of the larger one, which gets zeros elsewhere. The identity is a kernel with one
tap of weight one per channel, an affine map of it one with ``a``, an average pool ``1/k^2`` on the diagonal.

Counter-example: a 1x1 convolution with stride 2 and no padding beside a 3x3 one with stride 2 and padding 0: their
windows are centred at different places.

Source: Ding et al. 2021, arXiv 2101.03697, section 3.3 (RepVGG).
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from normfold.core.algebra.affine import Array
from normfold.core.laws.law import Law
from normfold.core.premises import SAME_CHANNELS, SAME_INPUT, SAME_WINDOW

LAW = Law(
    name="parallel",
    identity="W1 x + W2 x = (W1 + W2) x",
    premises=(SAME_INPUT, SAME_CHANNELS, SAME_WINDOW),
    counter_example="1x1 stride 2 beside 3x3 stride 2 without padding: other windows",
)


def embed(kernel: Array, placement: list[list[int]], taps: tuple[int, ...]) -> Array:
    """``kernel`` [group, out, in, *small taps] among zeros in a kernel with ``taps``."""
    out = np.zeros((*kernel.shape[:3], *taps))
    place: tuple[Any, ...] = (slice(None), slice(None), slice(None), *np.ix_(*placement))
    out[place] = kernel
    return out


def diagonal(scale: Array, groups: int, channels: int) -> Array:
    """The kernel of ``scale * x``, [group, channels/group, channels/group]; ``scale`` is [channels] or []."""
    width = channels // groups
    full = np.broadcast_to(scale, (channels,)).reshape(groups, width)
    return np.eye(width)[None] * full[:, :, None]


def spread(kernel: Array, taps: tuple[int, ...]) -> Array:
    """The kernel that averages over ``taps`` what ``kernel`` [group, out, in] makes of each: the same at every tap."""
    share = kernel.reshape(*kernel.shape, *[1] * len(taps)) / prod(taps)
    return np.broadcast_to(share, (*kernel.shape, *taps))
