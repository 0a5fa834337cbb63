"""What a norm with running statistics stores."""

from __future__ import annotations

import numpy as np

from normfold.backends.torch.constants import exact
from normfold.backends.torch.schemas import TENSORS
from normfold.backends.torch.tracer import Op
from normfold.core.algebra.affine import Array
from normfold.core.health import RunningNorm


def running_norm(op: Op) -> RunningNorm | None:
    """The parameters and the running statistics of ``op``, as far as they are constants; ``None`` for other norms."""
    if op.kind not in ("batch_norm", "instance_norm") or op.arguments.get("use_input_stats"):
        return None
    variance, arguments = op.arguments["running_var"], op.arguments
    tracked = variance is not None and arguments["running_mean"] is not None
    held = None if variance is None or variance.tensor is None else variance.tensor
    channels = arguments["input"].shape[1]
    return RunningNorm(
        _array(op, "weight", np.ones(channels)),
        _array(op, "bias", np.zeros(channels)),
        _array(op, "running_mean", None),
        _array(op, "running_var", None),
        float(arguments["eps"]),
        dtype=None if held is None else np.dtype(str(held.dtype).removeprefix("torch.")),
        training=bool(arguments.get("training", False)),
        tracked=tracked,
    )


def _array(op: Op, argument: str, absent: Array | None) -> Array | None:
    value = op.arguments[argument]
    if value is None:
        return absent
    return exact(value.tensor) if type(value.tensor) in TENSORS else None
