"""Norms: those by stored statistics as `AffineOp`, those by live ones as `Norm`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from normfold.backends.torch.chains import AFFINE, MIXED, TANH, affine_of, tanh_of
from normfold.backends.torch.constants import exact, largest
from normfold.backends.torch.lift.mixed import batch_layer
from normfold.backends.torch.schemas import TENSORS
from normfold.backends.torch.tracer import Op, Value
from normfold.backends.torch.tree import ModuleTree
from normfold.backends.torch.written import WRITTEN
from normfold.core.algebra import Affine
from normfold.core.algebra.affine import Array
from normfold.core.laws.collapse import inference_norm
from normfold.core.premises import AFFINE as IS_AFFINE
from normfold.core.premises import CONSTANT, EVAL_MODE, FINITE, FIXED_STATISTICS, NEEDS_STRUCTURE, RUNNING_STATISTICS
from normfold.core.views import AffineOp, DynamicTanh, Groups, Norm, NormKind, NotLifted, RunningStatistics, View
from normfold.records import Refusal


def _batch_norm(tree: ModuleTree, op: Op) -> View:
    """``batch_norm``, and ``instance_norm`` where it uses running statistics."""
    arguments, label = op.arguments, tree.label(op)
    if arguments["running_mean"] is None or arguments["running_var"] is None:
        raise NotLifted(RUNNING_STATISTICS, f"{label} keeps no running statistics: it normalises by the batch at hand")
    if arguments.get("training", False):
        raise NotLifted(EVAL_MODE, f"{label} is in training mode; call .eval() on the module first")
    mean, variance = (_constant(tree, op, argument) for argument in ("running_mean", "running_var"))
    scale = _constant(tree, op, "weight") if arguments["weight"] is not None else np.ones_like(mean)
    bias = _constant(tree, op, "bias") if arguments["bias"] is not None else np.zeros_like(mean)
    rank = len(arguments["input"].shape)
    spread = (-1, *[1] * (rank - 2))
    scale, bias, mean, variance = (array.reshape(spread) for array in (scale, bias, mean, variance))
    with np.errstate(all="ignore"):
        affine = inference_norm(scale, bias, mean, variance, float(arguments["eps"]))
    if not affine.finite:
        because = f"variance + eps of {label} is zero or negative in some channel, or a constant is not a number"
        raise NotLifted(FINITE, because)
    tree.removal(op)
    return AffineOp(
        node=op,
        op=_name(op),
        inputs=(arguments["input"],),
        outputs=op.outputs,
        affine=affine,
        holds_scale=_is_own(tree, op, "weight"),
        holds_shift=_is_own(tree, op, "bias"),
        axis=1 - rank,
        statistics=RunningStatistics(mean, variance, float(arguments["eps"])),
        largest=_largest(op),
    )


def _name(op: Op) -> str:
    """The name of a norm by stored statistics, which says what kind it is."""
    if op.call.kind.startswith("Frozen"):
        return "FrozenBatchNormalization"
    return "InstanceNormalization" if op.kind == "instance_norm" else "BatchNormalization"


def _instance_norm(tree: ModuleTree, op: Op) -> View:
    if not op.arguments["use_input_stats"]:
        return _batch_norm(tree, op)
    rank = len(op.arguments["input"].shape)
    groups = Groups(1 - rank, op.arguments["input"].shape[1])
    return _live(tree, op, "instance", tuple(range(2 - rank, 0)), groups)


def _constant(tree: ModuleTree, op: Op, argument: str) -> Array:
    value: Value = op.arguments[argument]
    if value.tensor is None or value.memory.written >= 0:
        raise NotLifted(CONSTANT, f"{argument} of {tree.label(op)} depends on the inputs, or changes during the call")
    if type(value.tensor) not in TENSORS:
        because = (
            f"{argument} of {tree.label(op)} is a {type(value.tensor).__name__}, which stores its values otherwise"
        )
        raise NotLifted(CONSTANT, because)
    return exact(value.tensor)


def _is_own(tree: ModuleTree, op: Op, argument: str) -> bool:
    """Whether ``argument`` is a tensor of the norm alone, which can be set."""
    if op.arguments.get(argument) is None:
        return False
    try:
        tree.own(op, "the constant", argument)
    except NotLifted:
        return False
    return True


def _largest(op: Op) -> float:
    value = op.arguments.get("weight")
    return float("inf") if value is None else largest(value.tensor)


def _affine(tree: ModuleTree, op: Op) -> View:
    """A module that multiplies and adds by its own constants: FrozenBatchNorm2d, LayerScale."""
    affine = affine_of(op)
    if not affine.finite:
        raise NotLifted(FINITE, f"a constant of {tree.label(op)} is not a number")
    tree.removal(op)
    axis = _only_axis(op)
    return AffineOp(
        node=op,
        op="FrozenBatchNormalization" if op.call.kind.startswith("Frozen") else "Mul",
        inputs=(op.arguments["input"],),
        outputs=op.outputs,
        affine=affine,
        holds_scale=axis is not None and _is_own(tree, op, "weight"),
        holds_shift=axis is not None and _is_own(tree, op, "bias"),
        axis=axis,
        largest=_largest(op),
    )


def _tanh(tree: ModuleTree, op: Op) -> View:
    """A module that squashes its input: DyT."""
    alpha, tail = tanh_of(op)
    label = tree.label(op)
    if not (np.isfinite(alpha) and tail.finite):
        raise NotLifted(FINITE, f"a constant of {label} is not a number")
    tree.removal(op)
    because = f"{label} squashes its input by a tanh; its scales can go elsewhere: convert --to tanh"
    return DynamicTanh(
        node=op,
        op="DynamicTanh",
        inputs=(op.arguments["input"],),
        outputs=op.outputs,
        alpha=alpha,
        tail=tail,
        core=Refusal(IS_AFFINE, because),
    )


def _only_axis(op: Op) -> int | None:
    """The axis along which the stored scale varies, and the stored shift, if there is one."""
    axes = [
        [k for k, size in enumerate(value.shape, -len(value.shape)) if size > 1]
        for value in (op.arguments.get("weight"), op.arguments.get("bias"))
        if value is not None
    ]
    return axes[0][0] if axes and len(axes[0]) == 1 and all(one == axes[0] for one in axes) else None


def _layer_norm(tree: ModuleTree, op: Op) -> View:
    axes = tuple(range(-len(op.arguments["normalized_shape"]), 0))
    return _live(tree, op, "rms" if op.kind == "rms_norm" else "layer", axes, None)


def _group_norm(tree: ModuleTree, op: Op) -> View:
    rank = len(op.arguments["input"].shape)
    groups = Groups(1 - rank, int(op.arguments["num_groups"]))
    return _live(tree, op, "group", tuple(range(1 - rank, 0)), groups)


def _live(tree: ModuleTree, op: Op, kind: NormKind, axes: tuple[int, ...], groups: Groups | None) -> Norm:
    tail = None
    if _is_own(tree, op, "weight") and (op.arguments.get("bias") is None or _is_own(tree, op, "bias")):
        arrays = [exact(tensor) for tensor in (_tensor(op, "weight"), _tensor(op, "bias")) if tensor is not None]
        spread = (-1, *[1] * (-1 - groups.axis)) if groups is not None else None
        tail = Affine.of(*(array if spread is None else array.reshape(spread) for array in arrays))
    label = tree.label(op)
    because = f"{label} computes its statistics from each input, so it is not one affine map; only its scale and shift "
    return Norm(
        node=op,
        op=op.kind,
        inputs=(op.arguments["input"],),
        outputs=op.outputs[:1],
        kind=kind,
        axes=axes,
        epsilon=None if op.arguments["eps"] is None else float(op.arguments["eps"]),
        core=Refusal(FIXED_STATISTICS, because + "could move"),
        tail=tail,
        holds_shift=op.arguments.get("bias") is not None,
        largest=_largest(op),
        groups=groups,
    )


def _written(tree: ModuleTree, op: Op) -> Norm:
    """A norm that a forward writes out. Its scale may be a stored tensor plus a number."""
    axes: tuple[int, ...] = op.arguments["axes"]
    view = _live(tree, op, op.arguments["norm"], axes, None)
    unemitted = None
    if view.kind == "layer" and axes == tuple(range(-len(axes), 0)):
        because = f"the forward around {tree.label(op)} writes it out, so that no one operation can take its place; "
        unemitted = Refusal(NEEDS_STRUCTURE, because + "normfold.export makes one of it in ONNX models")
    return replace(view, tail=None if view.tail is None else op.arguments.get("tail"), unemitted=unemitted)


def _tensor(op: Op, argument: str) -> torch.Tensor | None:
    value = op.arguments.get(argument)
    return None if value is None else value.tensor


NORMS: dict[str, Callable[[ModuleTree, Op], View]] = {
    "batch_norm": _batch_norm,
    "instance_norm": _instance_norm,
    "layer_norm": _layer_norm,
    "group_norm": _group_norm,
    "rms_norm": _layer_norm,
    AFFINE: _affine,
    TANH: _tanh,
    MIXED: batch_layer,
    WRITTEN: _written,
}
"""Kinds of operations that are norms, each with what lifts it."""
