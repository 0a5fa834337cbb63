"""Weights as signed bytes by output channel, and the biases that go with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from normfold.core.algebra.affine import Array
from normfold.core.integers.ranges import Codes
from normfold.core.integers.rounding import Spread, rounded
from normfold.core.integers.steps import Linear, Step, Transposed

FULL: Final = 127
"""Largest code of a weight; -128 is left out, so that signs can flip."""
REDUCED: Final = 63
"""Largest code where products of bytes are summed in pairs of 16 bits, which would overflow."""
SHRINKS: Final = np.linspace(0.76, 1.0, 13)
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


class Coder:
    """Codes of weights, found once for each step: neither its scales nor its codes depend on those of its input."""

    def __init__(self, largest: int = FULL, spreads: Mapping[Linear, Spread] | None = None) -> None:
        """``largest`` is the largest code of a weight; steps with ``spreads`` of their inputs are rounded by them."""
        self._largest = largest
        self._spreads = spreads or {}
        self._found: dict[Step, _Rounded] = {}

    def coded(self, step: Linear | Transposed, source: Codes, mean: Array | None, square: Array | None) -> WeightCodes:
        """The weight and bias of ``step`` as codes.

        Args:
            step: whose weight it is.
            source: the codes of its input.
            mean: of the input by channel ``[in]``, from which the bias takes what rounding the weight shifts.
            square: mean square of the input by channel ``[in]``, which weighs the errors of the weight.
        """
        if step not in self._found:
            self._found[step] = self._rounded(step, _scales(step, square, self._largest), mean)
        found = self._found[step]
        least = np.abs(found.bias) / (source.scale * LARGEST_BIAS)
        if (least > found.scale).any():
            found = self._rounded(step, np.maximum(found.scale, least), mean)
        bias = np.round(found.bias / (source.scale * found.scale.astype(np.float64)))
        return WeightCodes(found.codes, found.scale, bias.astype(np.int32))

    def _rounded(self, step: Linear | Transposed, scale: Array, mean: Array | None) -> _Rounded:
        spread = self._spreads.get(step) if isinstance(step, Linear) else None
        if spread is None:
            return _nearest(step, scale, mean, self._largest)
        single = scale.astype(np.float32)
        weight, unit = step.weight.reshape(step.groups, -1, spread.mean.shape[1]), single.astype(np.float64)
        by_group = unit.reshape(step.groups, -1)
        codes = rounded(weight, by_group, spread, self._largest)
        lost = ((codes * by_group[:, :, None] - weight) * spread.mean[:, None, :]).sum(axis=2).reshape(-1)
        return _Rounded(codes.reshape(step.weight.shape).astype(np.int8), single, step.bias - lost)


@dataclass(frozen=True, eq=False, slots=True)
class _Rounded:
    codes: NDArray[np.int8]
    scale: NDArray[np.float32]
    bias: Array


def _scales(step: Linear | Transposed, square: Array | None, largest: int) -> Array:
    """By output channel, the scale with which the weight has the least error, weighted by what it multiplies."""
    weight = step.weight.astype(np.float32).reshape(len(step.weight), -1)
    limit = np.abs(weight).max(axis=1)
    unit = np.where(limit > 0, limit, 1.0) / largest
    importance = _by_row(step, square)
    if importance is None:
        return np.asarray(unit, np.float64)
    spread = np.broadcast_to(importance, step.weight.shape).astype(np.float32).reshape(weight.shape)
    best, scale = np.full(len(weight), np.inf), unit
    for part in SHRINKS:
        trial = (unit * part).astype(np.float32)[:, None]
        error = np.clip(np.rint(weight / trial), -largest, largest) * trial - weight
        found = np.einsum("oi,oi,oi->o", error, error, spread)
        scale, best = np.where(found < best, unit * part, scale), np.minimum(found, best)
    return np.asarray(scale, np.float64)


def _nearest(step: Linear | Transposed, scale: Array, mean: Array | None, largest: int) -> _Rounded:
    """The weight in steps of ``scale``, and the bias less what that shifts the mean of the output."""
    single = scale.astype(np.float32)
    unit = single.astype(np.float64).reshape(-1, *[1] * (step.weight.ndim - 1))
    codes = np.clip(np.round(step.weight / unit), -largest, largest)
    bias = step.bias
    if mean is not None:
        lost = codes * unit - step.weight
        bias = bias - (lost * _means(step, mean)).reshape(len(codes), -1).sum(axis=1)
    return _Rounded(codes.astype(np.int8), single, bias)


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
