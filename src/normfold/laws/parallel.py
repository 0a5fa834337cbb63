"""``W1 x + W2 x = (W1 + W2) x``: convolutions of one input that are added are one convolution.

Premises: the same input, strides, groups and output size; and every tap of the smaller kernel, at offset
``t*dilation - pad_begin``, is a tap of the larger one, which gets zeros elsewhere. The identity is a kernel with one
tap of weight one per channel, an affine map of it one with ``a``, an average pool ``1/k^2`` on the diagonal.

Counter-example: a 1x1 convolution with stride 2 and no padding beside a 3x3 one with stride 2 and padding 0: their
windows are centred at different places.

Source: Ding et al. 2021, arXiv 2101.03697, section 3.3 (RepVGG).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from normfold.algebra.affine import Array
from normfold.laws.law import Law

LAW = Law(
    name="parallel",
    identity="W1 x + W2 x = (W1 + W2) x",
    premises=("same-input", "same-window"),
    counter_example="1x1 stride 2 beside 3x3 stride 2 without padding: other windows",
)


@dataclass(frozen=True, slots=True)
class Window:
    """Where a convolution looks: kernel size, stride, dilation and padding at the begin and end of each axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[int, ...]
    ends: tuple[int, ...]

    def offsets(self, axis: int) -> list[int]:
        """Input positions that each tap sees, relative to ``stride * output position``."""
        return [tap * self.dilations[axis] - self.begins[axis] for tap in range(self.kernel[axis])]

    def extra(self, axis: int) -> int:
        """Padding minus reach: with the input's size and the stride, this makes the output's size."""
        return self.begins[axis] + self.ends[axis] - self.dilations[axis] * (self.kernel[axis] - 1)

    def placement(self, small: Window) -> list[list[int]] | None:
        """For each axis the tap of this window that each tap of ``small`` falls on; ``None`` where it does not fit."""
        axes = range(len(self.kernel))
        if len(small.kernel) != len(self.kernel) or small.strides != self.strides:
            return None
        if any(self.extra(axis) != small.extra(axis) for axis in axes):
            return None
        placed = []
        for axis in axes:
            mine = self.offsets(axis)
            if not set(small.offsets(axis)) <= set(mine):
                return None
            placed.append([mine.index(offset) for offset in small.offsets(axis)])
        return placed


def embed(kernel: Array, placement: list[list[int]], taps: tuple[int, ...]) -> Array:
    """``kernel`` [group, out, in, *small taps] among zeros in a kernel with ``taps``."""
    out = np.zeros((*kernel.shape[:3], *taps))
    out[(slice(None), slice(None), slice(None), *np.ix_(*placement))] = kernel
    return out


def diagonal(scale: Array, groups: int, channels: int) -> Array:
    """The kernel of ``scale * x``, [group, channels/group, channels/group]; ``scale`` is [channels] or []."""
    width = channels // groups
    full = np.broadcast_to(scale, (channels,)).reshape(groups, width)
    return np.eye(width)[None] * full[:, :, None]
