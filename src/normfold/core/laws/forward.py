"""``W (a x + d) + b = (W a[in]) x + (b + sum over inputs and taps of W d)``: into the linear operation after it.

Premises: ``a`` and ``d`` vary along the operation's input channels only (inside a group, ``c = g*C/G + j``). For the
shift, every output position must sum every tap: no padding, and for ConvTranspose stride 1 with pads of at least
``dilation*(k - 1)``. The scale needs none of this.

Counter-example: a 3x3 convolution with padding 1 after ``x + d``. At the border it sums fewer than nine taps, so
the constant ``sum W d`` is wrong there by as much as ``d`` is large.
"""

from __future__ import annotations

from normfold.core.algebra import Weight
from normfold.core.algebra.affine import Array
from normfold.core.laws.law import Law
from normfold.core.premises import EVERY_TAP, PER_INPUT_CHANNEL

LAW = Law(
    name="forward",
    identity="W (a x + d) + b = (W a) x + (b + sum W d)",
    premises=(PER_INPUT_CHANNEL, EVERY_TAP),
    counter_example="x + d before a convolution that pads with zeros",
)


def push_into_columns(weight: Weight, scale: Array, shift: Array) -> tuple[Weight, Array]:
    """The weight that takes ``x`` instead of ``scale * x + shift``, and what the shift adds to each output: [out].

    ``scale`` and ``shift`` are [in] or [].
    """
    return weight.scale_columns(scale), weight.contract(shift)


def spread(vector: Array, axes: tuple[int, ...], sizes: tuple[int, ...]) -> Array:
    """A vector over channels (see `normfold.core.laws.backward.channel_vector`), right-aligned with its value."""
    rank = max(-axis for axis in axes)
    shape = [1] * rank
    for axis, size in zip(axes, sizes, strict=True):
        shape[axis] = size
    if list(axes) != sorted(axes):
        raise ValueError("channel axes are listed in order")
    return vector.reshape(shape)
