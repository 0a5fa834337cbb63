"""Means and deviations of values without data: what norms that were folded knew, carried through the steps.

A value is taken as normal by channel. What a clamp makes of that is known in closed form; the terms of a sum are taken
as independent, the taps of a convolution as alike. Of an input that nothing is known of, mean and deviation are those
that best explain what the norm behind the first convolution saw.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from normfold.core.algebra.affine import Array
from normfold.core.integers import steps
from normfold.core.integers.gelu import NAME
from normfold.core.integers.ranges import SIGMAS, Seen
from normfold.core.integers.steps import Linear, Network, Step, Transposed

SQUARE_ROOT: Final = math.sqrt(2.0 * math.pi)

LEAST_GELU: Final = -0.17
LIVE_SIGMAS: Final = 8.0
"""Live statistics are those of all channels, of which some may be much wider than others."""
PLACES: Final = np.linspace(-3.0, 6.0, 901)
"""Means of normal values of deviation 1 among which those before a rectifier are looked up."""


@dataclass(frozen=True, eq=False, slots=True)
class Normal:
    """Mean and deviation by channel, ``[C]``, or of all channels alike, ``[1]``; cut off at ``low`` and ``high``."""

    mean: Array
    deviation: Array
    low: float = -math.inf
    high: float = math.inf
    products: int | None = None
    """How many products lie between a norm by live statistics and this; None where it is known in another way."""

    def seen(self) -> Seen:
        """The range of `SIGMAS` deviations, of `LIVE_SIGMAS` behind a live norm, and the moments."""
        sigmas = LIVE_SIGMAS if self.products == 0 else SIGMAS
        ends = (self.mean - sigmas * self.deviation).min(), (self.mean + sigmas * self.deviation).max()
        low, high = (float(np.clip(end, self.low, self.high)) for end in ends)
        mean, deviation = self.moments()
        return Seen(low, high, np.zeros(0, np.int64), 1.0, mean, np.square(mean) + np.square(deviation))

    def moments(self) -> tuple[Array, Array]:
        """Mean and deviation of what the clamp leaves."""
        if math.isinf(self.low) and math.isinf(self.high):
            return self.mean, self.deviation
        spread = np.maximum(self.deviation, 1e-12)
        low, high = ((bound - self.mean) / spread for bound in (self.low, self.high))
        inside = _cumulative(high) - _cumulative(low)
        finite = [np.where(np.isfinite(bound), bound, 0.0) for bound in (low, high)]
        slopes = [np.where(np.isfinite(bound), _density(bound), 0.0) for bound in (low, high)]
        ends = [0.0 if math.isinf(bound) else bound for bound in (self.low, self.high)]
        below, above = _cumulative(low), 1.0 - _cumulative(high)
        first = self.mean * inside + spread * (slopes[0] - slopes[1]) + ends[0] * below + ends[1] * above
        twice = inside + finite[0] * slopes[0] - finite[1] * slopes[1]
        second = np.square(self.mean) * inside + 2 * self.mean * spread * (slopes[0] - slopes[1])
        second = second + np.square(spread) * twice + ends[0] ** 2 * below + ends[1] ** 2 * above
        return first, np.sqrt(np.maximum(second - np.square(first), 0.0))


def _density(x: Array) -> Array:
    return np.asarray(np.exp(-0.5 * np.square(x)) / SQUARE_ROOT)


def _cumulative(x: Array) -> Array:
    errors = np.vectorize(math.erf, otypes=[float])(x / math.sqrt(2.0))
    return np.asarray(0.5 * (1.0 + errors))


def carried(network: Network, known: Mapping[str, Normal]) -> dict[str, Normal]:
    """What follows for the values of ``network`` from those that are ``known``."""
    found = dict(known)
    for step in reversed(network.steps):
        if isinstance(step, steps.Affine) and step.inputs[0] not in found and step.output in known:
            before = _before_rectifier(step, known[step.output])
            if before is not None:
                found[step.inputs[0]] = before
    for step in network.steps:
        _explain_inputs(network, step, found)
        if step.output not in found:
            rule = CARRIED.get(type(step))
            made = rule(step, found) if rule else None
            if made is not None:
                found[step.output] = made
    return found


def _before_rectifier(step: steps.Affine, after: Normal) -> Normal | None:
    """The normal value of which a rectifier leaves ``after``: mean over deviation says where it lies."""
    if (step.low, step.high) != (0.0, math.inf) or bool((step.scale != 1).any() or (step.shift != 0).any()):
        return None
    mean, deviation = Normal(PLACES, np.ones_like(PLACES), low=0.0).moments()
    place = np.interp(after.mean / np.maximum(after.deviation, 1e-12), mean / deviation, PLACES)
    spread = after.deviation / np.interp(place, PLACES, deviation)
    return Normal(place * spread, spread)


def _explain_inputs(network: Network, step: Step, found: dict[str, Normal]) -> None:
    """Guess the moments of a graph input from what a norm knows of the convolution of it."""
    value = step.inputs[0] if step.inputs else ""
    target = found.get(step.output)
    if not isinstance(step, Linear) or value not in network.inputs or value in found or target is None:
        return
    taps = step.weight.reshape(len(step.weight), step.weight.shape[1], -1)
    sums = taps.sum(axis=2)
    if step.groups != 1 or target.mean.shape != step.bias.shape:
        return
    mean = np.linalg.lstsq(sums, target.mean - step.bias, rcond=None)[0]
    # White noise, or pictures of one colour: real ones lie in between.
    shares = np.stack([np.square(taps).sum(axis=(1, 2)), np.square(sums.sum(axis=1))], axis=1)
    variance = np.square(target.deviation)
    scaled = shares / np.maximum(variance, 1e-30)[:, None]
    parts = _least_squares_above_zero(scaled)
    found[value] = Normal(mean, np.full(mean.shape, math.sqrt(max(float(parts.sum()), 0.0))))


def _least_squares_above_zero(shares: Array) -> Array:
    """Two factors not below zero with which the two columns add up to one best."""
    both = np.linalg.lstsq(shares, np.ones(len(shares)), rcond=None)[0]
    if (both >= 0).all():
        return np.asarray(both, np.float64)
    single = [float(column.sum() / max(float(np.square(column).sum()), 1e-30)) for column in shares.T]
    left = [float(np.square(1 - factor * column).sum()) for factor, column in zip(single, shares.T, strict=True)]
    best = int(np.argmin(left))
    return np.array([single[0], 0.0]) if best == 0 else np.array([0.0, single[1]])


Rule = Callable[[Any, Mapping[str, Normal]], Normal | None]


def _affine(step: steps.Affine, found: Mapping[str, Normal]) -> Normal | None:
    source = found.get(step.inputs[0])
    if source is None:
        return None
    mean, deviation = source.moments()
    clamped = not (math.isinf(source.low) and math.isinf(source.high))
    if clamped and not bool((step.scale != 1).any() or (step.shift != 0).any()):
        return replace(source, low=max(source.low, step.low), high=min(source.high, step.high))
    made = Normal(mean * step.scale + step.shift, deviation * np.abs(step.scale), step.low, step.high)
    return replace(made, products=source.products)


def _linear(step: Linear | Transposed, found: Mapping[str, Normal]) -> Normal | None:
    source = found.get(step.inputs[0])
    if source is None:
        return None
    channels = step.groups * step.weight.shape[1]
    if source.mean.size not in (1, channels):
        return None
    # Sums of live values have outliers that no normal value has: one product behind a norm is as far as that goes.
    far = source.products is not None and (source.products > 0 or (isinstance(step, Linear) and step.depthwise))
    if far:
        return None
    rows = len(step.weight) // step.groups
    taps = step.weight.reshape(len(step.weight), step.weight.shape[1], -1)
    per_row = [
        np.repeat(np.broadcast_to(one, (channels,)).reshape(step.groups, -1), rows, axis=0) for one in source.moments()
    ]
    mean = (taps.sum(axis=2) * per_row[0]).sum(axis=1) + step.bias
    variance = np.square(np.abs(taps).sum(axis=2) * per_row[1]).sum(axis=1)
    products = None if source.products is None else source.products + 1
    return Normal(mean, np.sqrt(variance), step.low, step.high, products)


def _sum(step: steps.Sum, found: Mapping[str, Normal]) -> Normal | None:
    if any(value in found and found[value].products is not None for value in step.inputs):
        return None
    terms = [found[value].moments() for value in step.inputs if value in found]
    if len(terms) < len(step.inputs) or len({mean.shape for mean, _ in terms}) > 1:
        return None
    mean = np.sum([mean for mean, _ in terms], axis=0)
    variance = np.sum([np.square(deviation) for _, deviation in terms], axis=0)
    return Normal(mean, np.sqrt(variance), step.low, step.high)


def _normed(step: steps.Floating, _: Mapping[str, Normal]) -> Normal | None:
    return None if step.moments is None else Normal(*step.moments, products=0)


def _activated(step: steps.Product, found: Mapping[str, Normal]) -> Normal | None:
    """Of GELU: from its least value on it is close to what it is taken of."""
    source = found.get(step.inputs[0])
    if step.operator != NAME or source is None or not (math.isinf(source.low) and math.isinf(source.high)):
        return None
    return replace(source, low=LEAST_GELU)


def _same(step: Step, found: Mapping[str, Normal]) -> Normal | None:
    return found.get(step.inputs[0])


def _moving(step: steps.Moving, found: Mapping[str, Normal]) -> Normal | None:
    """A transposition keeps channels apart; what else moves may mix them."""
    source = found.get(step.inputs[0])
    if source is None or step.permutation is not None:
        return source
    mean, deviation = source.mean, source.deviation
    low, high = (mean - SIGMAS * deviation).min(), (mean + SIGMAS * deviation).max()
    middle, half = np.full(1, (low + high) / 2), np.full(1, (high - low) / (2 * SIGMAS))
    return Normal(middle, half, source.low, source.high, source.products)


def _concat(step: steps.Concat, found: Mapping[str, Normal]) -> Normal | None:
    parts: Sequence[Normal] = [found[value] for value in step.inputs if value in found]
    if len(parts) < len(step.inputs) or any(part.products is not None for part in parts):
        return None
    mean, deviation = (np.concatenate([getattr(part, name) for part in parts]) for name in ("mean", "deviation"))
    return Normal(mean, deviation, min(part.low for part in parts), max(part.high for part in parts))


CARRIED: Final[Mapping[type[Step], Rule]] = {
    steps.Affine: _affine,
    Linear: _linear,
    Transposed: _linear,
    steps.Sum: _sum,
    steps.MaxPool: _same,
    steps.AveragePool: _same,
    steps.GlobalMean: _same,
    steps.Concat: _concat,
    steps.Moving: _moving,
    steps.Floating: _normed,
    steps.Product: _activated,
}
"""How moments go through each kind of step."""
