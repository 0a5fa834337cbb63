"""``a * s * (q - z) = (|a| s) * (z + sign(a) * (q - z) - z)``: a scale moves into the scale of a quantised weight.

The codes ``q`` stay as they are where ``a > 0`` and are mirrored at the zero point ``z`` where ``a < 0``, ``2 z - q``;
where ``a = 0`` they all become ``z`` and the scale stays. A quantised bias ``b`` is rounded anew, to whole multiples of
its new step ``s_x |a| s``, with an error of at most half of that step.

Premises: a mirrored code is one that its type has; a weight with one scale gets one for each channel only where the
format allows; the new scale is a normal number of its type; the bias stays within `BIAS_LIMIT` steps. A scale along
the input channels passes only where it is one number for all those that meet in an output.

Counter-example: ``q = -128`` in int8 has no mirror image; ``sum_i a_i s q_i`` with two different ``a_i`` is not a
scale times the same codes; a map does not pass a quantiser of activations, ``Q(a x)`` is not ``a Q(x)``.

Source: Nagel et al. 2021, arXiv 2106.08295, section 3.1 (batch normalisation folding in quantised networks); ONNX,
QuantizeLinear and DequantizeLinear.
"""

from __future__ import annotations

import numpy as np

from normfold.algebra.affine import Array
from normfold.algebra.codes import Codes, Integers
from normfold.laws.law import Law

LAW = Law(
    name="quantized",
    identity="a * s * (q - z) = (|a| s) * sign(a) * (q - z)",
    premises=("code-range", "per-axis-scale", "scale-axis", "normal-scale", "bias-range", "same-codes"),
    counter_example="q = -128 in int8 has no mirror image for a < 0",
)

BIAS_LIMIT = 2.0**30
"""Most steps in a bias: half of what int32 holds is left to the sum of products that it is added to."""


def rescale(codes: Codes, factors: Array) -> Array:
    """The scales ``[n]`` of a weight whose channels are multiplied by ``factors`` ([n])."""
    return np.where(factors == 0, codes.scale, codes.scale * np.abs(factors))


def mirror(codes: Codes, factors: Array) -> Integers:
    """The codes, channels first, of a weight whose channels are multiplied by ``factors`` ([n])."""
    whole = codes.whole()
    shape = (-1,) + (1,) * (whole.ndim - 1)
    zero, sign = codes.zero_point.reshape(shape), np.sign(factors).astype(np.int32).reshape(shape)
    return zero + sign * (whole - zero)


def bias_steps(bias: Array, step: Array) -> Array:
    """``bias`` in steps, not yet rounded to whole ones."""
    return bias / step
