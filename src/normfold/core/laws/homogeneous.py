"""``f(a x) = a f(x)`` for ``a >= 0``: a scale passes Relu, LeakyRelu and PRelu; bounds pass with a Clip.

Premises: every scale is non-negative and there is no shift. A Clip moves any affine map with its bounds,
``a*clip(x, l, h) + d = clip(a x + d, a l + d, a h + d)`` (bounds swapped for a negative scale), as long as the new
bounds are the same for every channel where it has one pair, as in ONNX; Max and Min by constants hold one for each.

Counter-example: ``-1 * relu(x)`` is not ``relu(-x)``; ``relu(x) + 1`` is not ``relu(x + 1)``; ``2 * relu6(x)`` is
bounded by 12, not by 6.

Source: Nagel et al. 2019, arXiv 1906.04721, section 4.1 (positive scaling equivariance).
"""

from __future__ import annotations

import numpy as np

from normfold.core.algebra import Affine, trim
from normfold.core.algebra.affine import Array
from normfold.core.laws.law import Law
from normfold.core.premises import NO_SHIFT, NON_NEGATIVE_SCALE, UNIFORM_BOUNDS

LAW = Law(
    name="homogeneous",
    identity="f(a x) = a f(x) for a >= 0",
    premises=(NON_NEGATIVE_SCALE, NO_SHIFT, UNIFORM_BOUNDS),
    counter_example="-1 * relu(x) is not relu(-x)",
)


def moved_bounds(affine: Affine, low: Array | float, high: Array | float) -> tuple[Array, Array] | None:
    """The bounds of the clip that acts after ``affine`` instead of before it, right-aligned with the value.

    ``None`` where a scale is zero: the channel is a constant, whatever the bounds.
    """
    if not affine.scale.all():
        return None
    with np.errstate(invalid="ignore"):
        ends = [affine.scale * end + affine.shift for end in (low, high)]
    return trim(np.minimum(*ends)), trim(np.maximum(*ends))


def common(values: Array) -> float | None:
    """The value of every channel; ``None`` where they differ."""
    first = float(values.flat[0]) if values.size else 0.0
    return first if bool((values == first).all()) else None
