"""``a * s * (q - z) = (|a| s) * (q' - z)`` with ``q' = z + sign(a) * (q - z)``: a scale moves into that of the codes.

The codes ``q`` stay as they are where ``a > 0`` and are mirrored at the zero point ``z`` where ``a < 0``, ``2 z - q``;
where ``a = 0`` they all become ``z`` and the scale stays. A quantised bias is rounded anew, to whole multiples of its
new step ``s_x |a| s``: an error of at most half of that step.

Premises: a mirrored code is one that its type has; a weight with one scale gets one for each channel only where the
format allows; the new scale is a normal number of its type; the bias stays within `BIAS_LIMIT` steps. A scale along
the input channels passes only where it is one number for all those that meet in an output.

Counter-example: ``q = -128`` in int8 has no mirror image; ``sum_i a_i s q_i`` with two different ``a_i`` is not a
scale times the same codes; a map does not pass a quantiser of activations, ``Q(a x)`` is not ``a Q(x)``.

Source: Nagel et al. 2021, arXiv 2106.08295, section 2.3.1 (batch normalisation folding); ONNX, DequantizeLinear.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from normfold.core.algebra import Codes, Weight
from normfold.core.algebra.affine import Array
from normfold.core.algebra.codes import Integers
from normfold.core.laws.law import Law
from normfold.core.premises import BIAS_RANGE, CODE_RANGE, NORMAL_SCALE, PER_AXIS_SCALE, SAME_CODES, SCALE_AXIS

LAW = Law(
    name="quantized",
    identity="a * s * (q - z) = (|a| s) * sign(a) * (q - z)",
    premises=(SCALE_AXIS, PER_AXIS_SCALE, NORMAL_SCALE, CODE_RANGE, BIAS_RANGE, SAME_CODES),
    counter_example="q = -128 in int8 has no mirror image for a < 0",
)

BIAS_LIMIT = 2.0**30
"""Most steps in a bias: half of what int32 holds is left to the sum of products that it is added to."""


def rescale(codes: Codes, factors: Array) -> Array:
    """The scales of ``codes`` whose channels are multiplied by ``factors``; ``[n]`` both."""
    return np.where(factors == 0, codes.scale, codes.scale * np.abs(factors))


def mirror(codes: Codes, factors: Array) -> Integers:
    """The codes, channels first, whose channels are multiplied by the signs of ``factors`` (``[n]``)."""
    whole = codes.whole()
    shape = (-1,) + (1,) * (whole.ndim - 1)
    zero, sign = codes.zero_point.reshape(shape), np.sign(factors).astype(np.int32).reshape(shape)
    return np.asarray(zero + sign * (whole - zero), dtype=np.int32)


def bias_step(unit: Array, scale: Array, channels: int) -> Array:
    """The step of each bias: the input's scale ``unit`` (``[]`` or ``[channels]``) times the weight's (``[n]``)."""
    return np.asarray(unit * np.tile(scale, channels // scale.size))


def columns_as_rows(weight: Weight) -> Weight | None:
    """``weight`` with the scales pending for its input channels moved to its output channels; ``None`` where they mix.

    The scale passes the sum over the input channels of a group where it is the same for all of them.
    """
    if weight.columns is None:
        return weight
    groups = weight.columns.reshape(weight.groups, weight.in_per_group)
    if not bool((groups == groups[:, :1]).all()):
        return None
    return replace(weight, columns=None).scale_rows(np.repeat(groups[:, 0], weight.out_per_group))
