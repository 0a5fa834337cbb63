"""Batch Layer Normalization, by the attributes of its module: an affine map, or a norm of its own."""

from __future__ import annotations

import torch

from normfold.backends.torch.constants import exact
from normfold.backends.torch.modules import LEAK
from normfold.backends.torch.tracer import Op
from normfold.backends.torch.tree import ModuleTree
from normfold.core.algebra import Affine
from normfold.core.algebra.affine import Array
from normfold.core.premises import CONSTANT, FIXED_STATISTICS
from normfold.core.views import AffineOp, BatchLayer, NotLifted, RunningStatistics, View
from normfold.records import Refusal


def batch_layer(tree: ModuleTree, op: Op) -> View:
    """A Batch Layer Normalization whose statistics are all stored is an affine map."""
    tree.removal(op)
    module, label = op.call.module, tree.label(op)
    epsilon, size, divisor = (_number(module, name) for name in ("eps", "batch_size", "divisor"))
    parts: dict[str, RunningStatistics | None] = {}
    for part, flag in (("batch", "static_batch"), ("feature", "static_features")):
        stored = RunningStatistics(_array(module, f"{part}_mean"), _array(module, f"{part}_var"), epsilon)
        parts[part] = stored if getattr(module, flag) else None
    weight, bias = _array(module, "weight"), _array(module, "bias")
    tail = Affine.of(weight / divisor**0.5, bias)
    because = f"{label} computes statistics from each input"
    view = BatchLayer(
        node=op,
        op="BatchLayerNormalization",
        inputs=(op.arguments["input"],),
        outputs=op.outputs,
        batch=parts["batch"],
        features=parts["feature"],
        batch_size=size,
        epsilon=epsilon,
        axis=-weight.ndim,
        tail=tail,
        core=Refusal(FIXED_STATISTICS, because),
    )
    if parts["batch"] is None or parts["feature"] is None:
        return view
    return _static(op, view, parts["batch"], parts["feature"], label)


def _static(op: Op, view: BatchLayer, batch: RunningStatistics, features: RunningStatistics, label: str) -> AffineOp:
    share = 1 / view.batch_size
    mixed = [
        Affine.of(factor / part.deviation, -factor * part.mean / part.deviation)
        for factor, part in ((share - LEAK, features), (1 - share - LEAK, batch))
    ]
    affine = view.tail.after(Affine.of(mixed[0].scale + mixed[1].scale, mixed[0].shift + mixed[1].shift))
    varies = [axis for axis, size in enumerate(affine.shape, -len(affine.shape)) if size > 1]
    if varies not in ([], [view.axis]):
        raise NotLifted(CONSTANT, f"the statistics of {label} are not the same at every position")
    return AffineOp(
        node=op,
        op=view.op,
        inputs=view.inputs,
        outputs=view.outputs,
        affine=affine,
        holds_scale=False,
        holds_shift=False,
        axis=view.axis,
        statistics=batch,
        largest=torch.finfo(torch.float32).max,
    )


def _number(module: torch.nn.Module, name: str) -> float:
    return float(getattr(module, name))


def _array(module: torch.nn.Module, name: str) -> Array:
    return exact(getattr(module, name).detach())
