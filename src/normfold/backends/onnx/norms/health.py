"""What the stored statistics of a norm say about its training."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from normfold.backends.onnx.reading.constants import Constants
from normfold.core.algebra.affine import Array

TINY = 1e-5
"""Relative to the largest gamma of the layer: below this a channel says next to nothing."""


def batch_normalization_health(node: ir.Node, constants: Constants) -> Iterator[str]:
    """Remarks on a BatchNormalization: its mode, and channels whose statistics or scale are suspicious."""
    if node.attributes.get_int("training_mode", 0) or sum(bool(output.name) for output in node.outputs) > 1:
        yield "training mode"
    arrays = [constants.array(value) for value in node.inputs[1:5]]
    if len(arrays) < 4 or any(array is None for array in arrays):
        yield "running statistics are not constants"
        return
    if len({array.shape for array in arrays if array is not None}) > 1:
        yield "constants have different lengths"
        return
    gamma, beta, mean, variance = (array for array in arrays if array is not None)
    yield from _remarks(gamma, beta, mean, variance, node.attributes.get_float("epsilon", 1e-5))


def _remarks(gamma: Array, beta: Array, mean: Array, variance: Array, epsilon: float) -> Iterator[str]:
    def channels(mask: np.ndarray) -> str:
        return f"{int(mask.sum())} of {mask.size} channels"

    finite = np.isfinite(gamma) & np.isfinite(beta) & np.isfinite(mean) & np.isfinite(variance)
    if not finite.all():
        yield f"constants are not numbers in {channels(~finite)}"
    if (variance < 0).any():
        yield f"variance is negative in {channels(variance < 0)}"
    near_zero = (variance >= 0) & (variance < epsilon)
    if near_zero.any():
        yield f"variance is below epsilon in {channels(near_zero)}"
    zero = gamma == 0
    if zero.any():
        yield f"gamma is zero in {channels(zero)}"
    tiny = ~zero & (np.abs(gamma) < TINY * np.abs(gamma).max(initial=0.0))
    if tiny.any():
        yield f"gamma is tiny in {channels(tiny)}"
    if not mean.any() and (variance == 1).all():
        yield "running statistics were never updated (mean 0, variance 1)"
