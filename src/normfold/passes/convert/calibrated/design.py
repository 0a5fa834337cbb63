"""What a live norm makes of standardised channels, in closed form, and the scales and offsets that suit it best.

A norm with running statistics becomes one with live statistics. What writes its input absorbs any scale ``s`` and
offset ``b`` per channel for free, so that the new norm reads ``u = s * z + b`` with ``z`` standardised. It makes
``v = (u - M) / S``, with the mean ``M`` and deviation ``S`` of a group in one sample, and its own scale and bias map
``v`` back to ``z``. How well they can is the share of variance ``R^2`` of ``z`` that an affine map of ``v`` explains,
and that needs no more of the values than each sample's first and second moments per channel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from normfold.core.algebra.affine import Array
from normfold.passes.convert.calibrated.moments import SampleMoments

STEPS = 150
RATE = 0.03
BATCH = 512
"""Rows that a step of the design looks at."""
SMALLEST = 0.5
"""The root mean square of a group's scales: smaller ones would make offsets as large as they like beside them."""
SMALL = 1e-12


@dataclass(frozen=True, slots=True)
class Shape:
    """What the new norm divides by: of which channels, with their mean taken away or not.

    ``groups`` of ``channels`` each have statistics of their own.
    """

    groups: int
    epsilon: float
    centred: bool = True


@dataclass(frozen=True, eq=False, slots=True)
class Design:
    """``scale`` and ``offset`` of what the norm reads, ``slope`` and ``intercept`` behind it, all per channel.

    ``r_squared`` is the share of each channel's variance that is left of it; ``constant_share`` is that of the norm's
    variance which no sample has a part in: of 0, the norm is live, and near 1 it is inert.
    """

    scale: Array
    offset: Array
    slope: Array
    intercept: Array
    r_squared: Array
    constant_share: float


def design(z: SampleMoments, shape: Shape, weight: Array, max_offset: float, *, seed: int = 0) -> Design:
    """The best scales and offsets found for ``z``, standardised; an error of channel c counts ``weight[c]``.

    No offset is larger than ``max_offset``, where the root mean square of a group's scales is between a half and one.
    """
    problem = _Problem(z, shape, weight)
    scale = _signs(z, shape) if shape.centred else np.ones(len(weight))
    offset = _first_offsets(z, shape, scale) * max_offset
    if max_offset or shape.groups < len(weight):
        scale, offset = problem.descended(scale, offset, max_offset, np.random.default_rng(seed))
    return problem.design(scale, offset)


def evaluated(z: SampleMoments, shape: Shape, scale: Array, offset: Array) -> Design:
    """What comes of ``scale`` and ``offset`` as they are."""
    return _Problem(z, shape, np.ones(len(scale))).design(scale, offset)


def _grouped(array: Array, groups: int) -> Array:
    return array.reshape(*array.shape[:-1], groups, -1)


def _signs(z: SampleMoments, shape: Shape) -> Array:
    """Signs with which the channels of a group add up to a mean that hardly varies from sample to sample."""
    means = _grouped(z.first - z.mean, shape.groups)
    return np.concatenate([_cancelling(means[:, g]) for g in range(shape.groups)])


def _first_offsets(z: SampleMoments, shape: Shape, scale: Array) -> Array:
    """Signs that add up to nothing, and with which offsets hardly meet what varies."""
    means = _grouped((z.first - z.mean) * scale, shape.groups)
    return np.concatenate([_cancelling(means[:, g], balanced=True) for g in range(shape.groups)])


def _cancelling(means: Array, *, balanced: bool = False) -> Array:
    """Signs of the columns of ``means`` for which the variance of their sum is least; found by flipping one by one."""
    count = means.shape[1]
    gram = means.T @ means / len(means)
    if balanced:
        gram = gram + np.trace(gram) / count + SMALL
    signs = np.where(np.arange(count) % 2 == 0, 1.0, -1.0)
    for _ in range(4 * count):
        gain = signs * (gram @ signs) - np.diag(gram)
        worst = int(gain.argmax())
        if gain[worst] <= SMALL * np.trace(gram):
            break
        signs[worst] = -signs[worst]
    return signs


class _Problem:
    """The closed form of one norm, and its gradient."""

    def __init__(self, z: SampleMoments, shape: Shape, weight: Array) -> None:
        self.z, self.shape = z, shape
        self.weight = weight / max(weight.mean(), SMALL)

    def _group_moments(self, z: SampleMoments, scale: Array, offset: Array) -> tuple[Array, Array]:
        """Mean, zero where the norm takes none away, and variance of each group in each row, ``[rows, groups, 1]``."""
        first = _grouped(scale * z.first + offset, self.shape.groups)
        square = _grouped(scale**2 * z.second + 2.0 * scale * offset * z.first + offset**2, self.shape.groups)
        mean = first.mean(-1, keepdims=True) if self.shape.centred else np.zeros((*first.shape[:-1], 1))
        return mean, np.maximum(square.mean(-1, keepdims=True) - mean**2, 0.0)

    def design(self, scale: Array, offset: Array) -> Design:
        """What comes of ``scale`` and ``offset``, with the slopes that keep mean and deviation of each channel."""
        z, groups = self.z, self.shape.groups
        mean, variance = self._group_moments(z, scale, offset)
        inverse = 1.0 / np.sqrt(variance + self.shape.epsilon)
        first, second = _grouped(z.first, groups), _grouped(z.second, groups)
        s, b = _grouped(scale, groups), _grouped(offset, groups)
        k = b - mean
        v1 = ((s * first + k) * inverse).mean(0).reshape(-1)
        v2 = ((s**2 * second + 2.0 * s * k * first + k**2) * inverse**2).mean(0).reshape(-1)
        vz = ((s * second + k * first) * inverse).mean(0).reshape(-1)
        spread, own = np.maximum(v2 - v1**2, SMALL), np.maximum(z.variance, SMALL)
        covariance = vz - v1 * z.mean
        slope = np.where(covariance < 0, -1.0, 1.0) * np.sqrt(own / spread)
        constant = _grouped(offset, groups)
        inert = constant.var(-1) if self.shape.centred else (constant**2).mean(-1)
        share = (inert + self.shape.epsilon) / (variance.mean(0)[..., 0] + self.shape.epsilon)
        return Design(scale, offset, slope, z.mean - slope * v1, covariance**2 / (own * spread), float(share.mean()))

    def descended(
        self, scale: Array, offset: Array, max_offset: float, generator: np.random.Generator
    ) -> tuple[Array, Array]:
        """Scale and offset after some steps of Adam."""
        point = np.stack([scale, offset])
        first, second = np.zeros_like(point), np.zeros_like(point)
        count = len(self.z.first)
        for step in range(1, STEPS + 1):
            rows = self.z if count <= BATCH else self.z.rows(generator.choice(count, BATCH, replace=False))
            gradient = self._gradient(rows, point[0], point[1])
            first += 0.1 * (gradient - first)
            second += 0.001 * (gradient**2 - second)
            moved = first / (1.0 - 0.9**step) / (np.sqrt(second / (1.0 - 0.999**step)) + 1e-8)
            point = self._allowed(point - RATE * moved, max_offset)
        return point[0], point[1]

    def _allowed(self, point: Array, max_offset: float) -> Array:
        """Scales whose root mean square in each group is neither above one nor small, and offsets in their bound."""
        scale = _grouped(point[0], self.shape.groups)
        size = np.sqrt((scale**2).mean(-1, keepdims=True))
        scale = scale * np.clip(size, SMALLEST, 1.0) / size
        return np.stack([scale.reshape(-1), np.clip(point[1], -max_offset, max_offset)])

    def _gradient(self, z: SampleMoments, scale: Array, offset: Array) -> Array:
        """That of the mean of ``weight * (1 - R^2)``, by scale and by offset."""
        groups = self.shape.groups
        mean, variance = self._group_moments(z, scale, offset)
        r = 1.0 / np.sqrt(variance + self.shape.epsilon)
        p, q = _grouped(z.first, groups), _grouped(z.second, groups)
        s, b, w = (_grouped(array, groups) for array in (scale, offset, self.weight))
        rows, width = len(p), p.shape[-1]
        k = b - mean
        linear, square, cross = s * p + k, s**2 * q + 2.0 * s * k * p + k**2, s * q + k * p
        v1, v2, vz = (linear * r).mean(0), (square * r**2).mean(0), (cross * r).mean(0)
        z1, own = p.mean(0), np.maximum(q.mean(0) - p.mean(0) ** 2, SMALL)
        spread, covariance = np.maximum(v2 - v1**2, SMALL), vz - z1 * v1
        by_covariance = -2.0 * w * covariance / (own * spread)
        by_spread = w * covariance**2 / (own * spread**2)
        g1, g2, g3 = -z1 * by_covariance - 2.0 * v1 * by_spread, by_spread, by_covariance
        by_k = g1 * r + 2.0 * g2 * linear * r**2 + g3 * p * r
        by_s = g1 * p * r + 2.0 * g2 * cross * r**2 + g3 * q * r
        by_r = (g1 * linear + 2.0 * g2 * square * r + g3 * cross).sum(-1, keepdims=True)
        by_variance = -0.5 * r**3 * by_r
        by_mean = -by_k.sum(-1, keepdims=True) - 2.0 * mean * by_variance if self.shape.centred else 0.0
        by_s = by_s + by_variance * 2.0 * (s * q + b * p) / width + by_mean * p / width
        by_b = by_k + by_variance * 2.0 * (s * p + b) / width + by_mean / width
        return np.stack([by_s.sum(0).reshape(-1), by_b.sum(0).reshape(-1)]) / rows
