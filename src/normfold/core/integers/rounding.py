"""Rounding of weights that knows what they multiply: each error is taken back by the weights that are still to come.

Frantar et al., "GPTQ" (arXiv 2210.17323). What the mean of the input makes of an error goes into the bias, so that
only the covariance counts.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import numpy as np

from normfold.core.algebra.affine import Array

DAMPING: Final = 0.01
"""Of the mean variance, added to every variance: those of a sample are not exact."""


@dataclass(frozen=True, eq=False, slots=True)
class Spread:
    """Mean ``[groups, elements]`` and covariance ``[groups, elements, elements]`` of what a weight's rows multiply."""

    mean: Array
    covariance: Array

    @staticmethod
    def of(rows: int, total: Array, products: Array) -> Spread:
        """From sums over ``rows`` windows."""
        mean = total / rows
        return Spread(mean, products / rows - mean[:, :, None] * mean[:, None, :])

    def times(self, factor: Array) -> Spread:
        """Of the input times ``factor``, ``[groups, elements]``."""
        return Spread(self.mean * factor, self.covariance * factor[:, :, None] * factor[:, None, :])

    def padded(self, groups: int, elements: int) -> Spread:
        """Of an input with more groups, or more elements in each, that are zeros."""
        more, longer = groups - len(self.mean), elements - self.mean.shape[1]
        mean = np.pad(self.mean, [(0, more), (0, longer)])
        return Spread(mean, np.pad(self.covariance, [(0, more), (0, longer), (0, longer)]))


def rounded(weight: Array, scale: Array, spread: Spread, largest: int) -> Array:
    """Codes of ``weight`` whose errors make the least difference.

    Args:
        weight: ``[groups, rows, elements]``.
        scale: ``[groups, rows]``.
        spread: of what it multiplies.
        largest: code.

    Returns:
        Whole numbers ``[groups, rows, elements]``, of each row those of plain rounding where these are better.
    """
    unit = scale[:, :, None]
    plain = np.clip(np.rint(weight / unit), -largest, largest)
    variance = np.einsum("gkk->gk", spread.covariance)
    order = np.argsort(-variance, axis=1, kind="stable")
    size = weight.shape[2]
    pairs = order[:, :, None] * size + order[:, None, :]
    sorted_pairs = np.take_along_axis(spread.covariance.reshape(len(order), -1), pairs.reshape(len(order), -1), axis=1)
    upper = _factor_of_inverse(sorted_pairs.reshape(spread.covariance.shape))
    if upper is None:
        return plain
    left = np.take_along_axis(weight, order[:, None, :], axis=2)
    codes = np.empty_like(left)
    for k in range(size):
        codes[:, :, k] = np.clip(np.rint(left[:, :, k] / scale), -largest, largest)
        error = (left[:, :, k] - codes[:, :, k] * scale) / upper[:, None, k, k]
        left[:, :, k + 1 :] -= error[:, :, None] * upper[:, None, k, k + 1 :]
    back = np.take_along_axis(codes, np.argsort(order, axis=1)[:, None, :], axis=2)
    better = _loss(back * unit - weight, spread) < _loss(plain * unit - weight, spread)
    return np.asarray(np.where(better[:, :, None], back, plain))


def _factor_of_inverse(covariance: Array) -> Array | None:
    """The upper triangular ``U`` with ``U^T U`` the inverse of a damped ``covariance``; None where it has no use.

    What rounding left of it may have negative eigenvalues, as many as the means are large; then it is damped more.
    """
    variance = np.einsum("gkk->gk", covariance).mean(axis=1)
    backwards, unit = covariance[:, ::-1, ::-1], np.eye(covariance.shape[1])
    for share in (DAMPING, 10 * DAMPING, 100 * DAMPING):
        damping = share * variance + np.finfo(np.float64).tiny ** 0.5
        with suppress(np.linalg.LinAlgError):
            lower = np.linalg.cholesky(backwards + damping[:, None, None] * unit)
            return np.asarray(np.linalg.inv(lower)[:, ::-1, ::-1])
    return None


def _loss(error: Array, spread: Spread) -> Array:
    return np.asarray(np.einsum("grk,grk->gr", np.matmul(error, spread.covariance), error))
