"""``a*(s x + t) + d = (a s) x + (a t + d)``: a chain of affine maps is one affine map.

Premises: every constant broadcasts against the value without enlarging it; ``x`` is on one side only
(``k - x`` flips the sign; ``k / x`` is not affine).

Counter-example: ``k / x``; and ``x * k`` with ``x: [N, C, 1, 1]`` and ``k: [C, H, W]``, whose result is larger
than ``x``, so nothing before it can hold ``k``.
"""

from __future__ import annotations

import numpy as np

from normfold.core.algebra import Affine
from normfold.core.algebra.affine import Array
from normfold.core.algebra.moments import deviation
from normfold.core.laws.law import Law
from normfold.core.premises import AFFINE, SAME_SHAPE

LAW = Law(
    name="collapse",
    identity="a*(s x + t) + d = (a s) x + (a t + d)",
    premises=(AFFINE, SAME_SHAPE),
    counter_example="k / x is not affine in x",
)


def inference_norm(scale: Array, bias: Array, mean: Array, variance: Array, epsilon: float) -> Affine:
    """The affine map of a BatchNorm with fixed statistics: ``scale*(x - mean)/sqrt(variance + epsilon) + bias``.

    Arrays are right-aligned with the value. All in float64: ``variance + epsilon`` of float16 statistics would
    be zero for ``variance = 0, epsilon = 1e-9``.
    """
    factor = scale / deviation(variance, epsilon)
    return Affine.of(factor, bias - factor * mean)


def norm_constants(affine: Affine, mean: Array, variance: Array, epsilon: float) -> tuple[Array, Array]:
    """The scale and bias of the BatchNorm with these statistics that is the map ``affine``, all of ``[C]``.

    It undoes `inference_norm`.
    """
    scale, shift = (np.broadcast_to(constant.reshape(-1), mean.shape) for constant in (affine.scale, affine.shift))
    return scale * deviation(variance, epsilon), shift + scale * mean
