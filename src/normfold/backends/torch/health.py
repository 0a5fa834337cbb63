"""What the stored statistics of a norm say about its training."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from normfold.backends.torch.constants import exact
from normfold.backends.torch.tracer import Op


def remarks(op: Op) -> Iterator[str]:
    """Remarks on a batch norm: its mode, and channels whose statistics are suspicious."""
    if op.kind != "batch_norm":
        return
    mean, variance = op.arguments["running_mean"], op.arguments["running_var"]
    if op.arguments["training"] or mean is None or variance is None:
        yield "training mode" if op.arguments["training"] else "no running statistics"
        return
    if mean.tensor is None or variance.tensor is None:
        return
    centre, spread = exact(mean.tensor), exact(variance.tensor)
    near_zero = (spread >= 0) & (spread < float(op.arguments["eps"]))
    if near_zero.any():
        yield f"variance is below epsilon in {int(near_zero.sum())} of {near_zero.size} channels"
    if not np.any(centre) and bool((spread == 1).all()):
        yield "running statistics were never updated (mean 0, variance 1)"
