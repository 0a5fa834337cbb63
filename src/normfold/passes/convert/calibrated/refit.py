"""Least squares that bring a layer's output back to what it was, although its input is not what it was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from normfold.core.algebra.affine import Array

RIDGE: Final = 0.1
"""How much a change of a weight costs, in mean variances of an input."""
SMALL: Final = 1e-12


@dataclass(frozen=True, eq=False, slots=True)
class Refitted:
    """What is to be added to a weight ``[out, in]`` and to a bias ``[out]``."""

    weight: Array
    bias: Array


def ridge(before: NDArray[Any], now: NDArray[Any], weight: Array) -> Refitted:
    """The change of ``weight`` with which rows of inputs as they are ``now`` give what ``before`` gave.

    Rows are ``[rows, in]``. The change is shrunk towards none, so that directions in which the input hardly varies
    keep their weights.
    """
    mean, lost = now.mean(0, dtype=np.float64), (before - now).mean(0, dtype=np.float64)
    centred = now - mean.astype(now.dtype)
    missing = (before - now - lost.astype(now.dtype)) @ weight.T.astype(now.dtype)
    gram = (centred.T @ centred).astype(np.float64) / len(now)
    cross = (missing.T @ centred).astype(np.float64) / len(now)
    gram[np.diag_indices_from(gram)] += RIDGE * gram.trace() / len(gram) + SMALL
    change = np.linalg.solve(gram, cross.T).T
    return Refitted(change, weight @ lost - change @ mean)


def affine(before: NDArray[Any], now: NDArray[Any]) -> tuple[Array, Array]:
    """Scale and shift by channel with which rows ``[rows, channels]`` as they are ``now`` are closest to ``before``.

    A channel that has turned round, or does not vary, keeps its scale.
    """
    wanted, found = before.mean(0, dtype=np.float64), now.mean(0, dtype=np.float64)
    spread = np.einsum("rc,rc->c", now - found, now - found, dtype=np.float64)
    common = np.einsum("rc,rc->c", now - found, before - wanted, dtype=np.float64)
    scale = np.where((spread > SMALL) & (common > 0), common / np.maximum(spread, SMALL), 1.0)
    return scale, wanted - scale * found
