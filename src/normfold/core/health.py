"""What the stored statistics of a norm say about its training: the only list of findings, for both backends."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from normfold.core.algebra.affine import Array

TINY: Final = 1e-5
"""Magnitude of a gamma, relative to the largest of its layer, below which the channel carries no signal."""


@dataclass(frozen=True, eq=False, slots=True)
class RunningNorm:
    """A norm with running statistics as it is stored: ``[C]`` arrays in float64.

    An array is ``None`` where it is not a constant. ``dtype`` is the type that the statistics are stored in.
    """

    gamma: Array | None
    beta: Array | None
    mean: Array | None
    variance: Array | None
    epsilon: float
    dtype: np.dtype[Any] | None = None
    training: bool = False
    tracked: bool = True
    """Whether the norm keeps running statistics at all."""


def findings(norm: RunningNorm) -> tuple[str, ...]:
    """What is suspicious about ``norm``, a phrase each; empty for a healthy one."""
    return tuple(_findings(norm))


def _findings(norm: RunningNorm) -> Iterator[str]:
    if not norm.tracked:
        yield "no running statistics"
        return
    if norm.training:
        yield "training mode"
    arrays = (norm.gamma, norm.beta, norm.mean, norm.variance)
    known = [array for array in arrays if array is not None]
    if len(known) < len(arrays):
        yield "parameters or running statistics are not constants"
    elif len({array.shape for array in known}) > 1:
        yield "parameters and running statistics have different lengths"
    else:
        gamma, _, mean, variance = known
        finite = np.logical_and.reduce([np.isfinite(array) for array in known])
        yield from _counted("NaN or infinity", ~finite)
        yield from _of_variance(variance, norm)
        yield from _of_gamma(gamma)
        if not mean.any() and (variance == 1).all():
            yield "running statistics were never updated (mean 0, variance 1)"


def _of_variance(variance: Array, norm: RunningNorm) -> Iterator[str]:
    yield from _counted("variance is negative", variance < 0)
    yield from _counted("variance is below epsilon", (variance >= 0) & (variance < norm.epsilon))
    if norm.dtype is not None:
        least = float(ml_dtypes.finfo(norm.dtype).smallest_subnormal)
        vanishing = (variance >= 0) & (variance + norm.epsilon < least / 2)
        yield from _counted(f"variance + epsilon underflows to zero in {norm.dtype.name}", vanishing)


def _of_gamma(gamma: Array) -> Iterator[str]:
    zero = gamma == 0
    yield from _counted("gamma is zero", zero)
    yield from _counted("gamma is tiny", ~zero & (np.abs(gamma) < TINY * np.abs(gamma).max(initial=0.0)))


def _counted(what: str, channels: NDArray[np.bool_]) -> Iterator[str]:
    if channels.any():
        yield f"{what} in {int(channels.sum())} of {channels.size} channels"
