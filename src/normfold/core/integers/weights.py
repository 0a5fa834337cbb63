"""Weights as signed bytes by output channel, and the biases that go with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from normfold.core.algebra.affine import Array
from normfold.core.integers.ranges import Codes
from normfold.core.integers.steps import Linear, Transposed

FULL: Final = 127
"""Largest code of a weight; -128 is left out, so that signs can flip."""
REDUCED: Final = 63
"""Largest code where products of bytes are summed in pairs of 16 bits, which would overflow."""
SHRINKS: Final = np.linspace(0.75, 1.0, 26)
"""Parts of a channel's largest weight that are tried for the scale with the least error."""
LARGEST_BIAS: Final = 2.0**30
"""Codes of a bias stay below it, which leaves room for the sum of products."""


@dataclass(frozen=True, eq=False, slots=True)
class WeightCodes:
    """A weight's codes, its scale by output channel ``[out]``, and the bias in steps of input times weight."""

    codes: NDArray[np.int8]
    scale: NDArray[np.float32]
    bias: NDArray[np.int32]

    def values(self) -> Array:
        """What the codes stand for."""
        return self.codes * self.scale.astype(np.float64).reshape(-1, *[1] * (self.codes.ndim - 1))


def coded(
    step: Linear | Transposed, source: Codes, mean: Array | None, square: Array | None, largest: int = FULL
) -> WeightCodes:
    """The weight and bias of ``step`` as codes.

    Args:
        step: whose weight it is.
        source: the codes of its input.
        mean: of the input by channel ``[in]``, from which the bias takes what rounding the weight shifts.
        square: mean square of the input by channel ``[in]``, which weighs the errors of the weight.
        largest: code of a weight.
    """
    weight = step.weight
    importance = _by_row(step, square)
    limit = np.abs(weight.reshape(len(weight), -1)).max(axis=1)
    least = np.abs(step.bias) / (source.scale * LARGEST_BIAS)
    unit = np.maximum(np.where(limit > 0, limit, 1.0) / largest, np.maximum(least, 1e-30))
    best = np.full(len(weight), np.inf)
    scale = unit.copy()
    for part in SHRINKS if importance is not None else SHRINKS[-1:]:
        trial = np.maximum(unit * part, np.maximum(least, 1e-30))
        error = np.square(_rounded(weight, trial, largest) * _spread(trial, weight) - weight)
        weighted = error if importance is None else error * importance
        found = weighted.reshape(len(weight), -1).sum(axis=1)
        better = found < best
        best, scale = np.where(better, found, best), np.where(better, trial, scale)
    single = scale.astype(np.float32)
    codes = _rounded(weight, single.astype(np.float64), largest)
    bias = step.bias
    if mean is not None:
        lost = codes * _spread(single.astype(np.float64), weight) - weight
        bias = bias - (lost * _means(step, mean)).reshape(len(weight), -1).sum(axis=1)
    rounded = np.round(bias / (source.scale * single.astype(np.float64)))
    return WeightCodes(codes.astype(np.int8), single, rounded.astype(np.int32))


def _rounded(weight: Array, scale: Array, largest: int) -> Array:
    return np.clip(np.round(weight / _spread(scale, weight)), -largest, largest)


def _spread(scale: Array, weight: Array) -> Array:
    return scale.reshape(-1, *[1] * (weight.ndim - 1))


def _by_row(step: Linear | Transposed, square: Array | None) -> Array | None:
    """The mean square of what each weight multiplies, with a floor, so that silent channels count a little."""
    if square is None or not square.any():
        return None
    return _means(step, square + 1e-3 * float(square.mean()))


def _means(step: Linear | Transposed, by_channel: Array) -> Array:
    """``by_channel`` ``[in]`` laid out as the weight: ``[out, in/groups, 1, ...]``."""
    per_group = np.broadcast_to(by_channel, (step.groups * step.weight.shape[1],)).reshape(step.groups, -1)
    rows = np.repeat(per_group, len(step.weight) // step.groups, axis=0)
    return rows.reshape(*rows.shape, *[1] * (step.weight.ndim - 2))
