"""BatchNormalization at inference and arithmetic by constants as `AffineOp`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from normfold.backends.onnx.lift.context import Context, data
from normfold.backends.onnx.reading.constants import exact, largest, step
from normfold.core.algebra import Affine, trim
from normfold.core.algebra.affine import Array
from normfold.core.laws.collapse import inference_norm
from normfold.core.premises import (
    AFFINE,
    FINITE,
    FLOATING_POINT,
    INFERENCE_MODE,
    KNOWN_RANK,
    PER_CHANNEL_STATISTICS,
    SAME_SHAPE,
    WELL_FORMED,
)
from normfold.core.views import AffineOp, NotLifted, Product, RunningStatistics, Sum, View


def _batch_normalization(context: Context, node: ir.Node) -> View:
    label = context.label(node)
    _refuse_training(context, node)
    if context.opset < 9 and node.attributes.get_int("spatial", 1) == 0:
        raise NotLifted(
            PER_CHANNEL_STATISTICS, f"{label} has spatial=0: its statistics are per element, not per channel"
        )
    x = data(node)
    rank = context.rank(x)
    if rank is None or rank < 2:
        raise NotLifted(KNOWN_RANK, f"the rank of the input of {label} is not known; run shape inference on the model")
    roles = ("scale", "bias", "mean", "variance")
    tensors = [context.tensor(node, 1 + k, f"the {role}") for k, role in enumerate(roles)]
    size = {t.shape.numpy() for t in tensors}
    if len(size) != 1 or len(tensors[0].shape) != 1:
        raise NotLifted(WELL_FORMED, f"the constants of {label} are not four vectors of one length")
    context.same_size(node, x, 1, tensors[0].size)
    scale, bias, mean, variance = (exact(t).reshape(-1, *[1] * (rank - 2)) for t in tensors)
    epsilon = node.attributes.get_float("epsilon", 1e-5)
    with np.errstate(all="ignore"):
        affine = inference_norm(scale, bias, mean, variance, epsilon)
    if not affine.finite:
        raise NotLifted(
            FINITE,
            f"variance + epsilon of {label} is zero or negative in some channel, or a constant is not a number",
        )
    return AffineOp(
        node=node,
        op=node.op_type,
        inputs=(x,),
        outputs=tuple(node.outputs),
        affine=affine,
        holds_scale=True,
        holds_shift=True,
        axis=1 - rank,
        statistics=RunningStatistics(mean, variance, epsilon),
        largest=largest(tensors[0].dtype),
        step=step(tensors[0].dtype),
    )


def _refuse_training(context: Context, node: ir.Node) -> None:
    label = context.label(node)
    if context.opset < 7:
        if not node.attributes.get_int("is_test", 0):
            raise NotLifted(
                INFERENCE_MODE, f"{label} (opset {context.opset}) is in training mode; export the model for inference"
            )
        return
    if node.attributes.get_int("training_mode", 0):
        raise NotLifted(
            INFERENCE_MODE, f"{label} has training_mode=1: it normalises by the batch; export the model for inference"
        )
    if sum(bool(output.name) for output in node.outputs) > 1:
        raise NotLifted(
            INFERENCE_MODE, f"{label} also returns statistics: its training form; export the model for inference"
        )


def _arithmetic(context: Context, node: ir.Node) -> View:
    label = context.label(node)
    if context.opset < 7 and node.attributes.get_int("broadcast", 0) == 1:
        raise NotLifted(SAME_SHAPE, f"{label} broadcasts by the rules before opset 7; convert the model to a newer one")
    left, right = data(node, 0), data(node, 1)
    side = next((k for k, value in ((1, right), (0, left)) if not isinstance(context.constants.find(value), str)), None)
    if side is None:
        return _of_values(context, node, (left, right))
    tensor = context.tensor(node, side, "an operand")
    x = data(node, 1 - side)
    constant = exact(tensor)
    refuse_growth(context, node, x, constant)
    affine, holds_scale, holds_shift = _meaning(label, node.op_type, trim(constant), constant_first=side == 0)
    return AffineOp(
        node=node,
        op=node.op_type,
        inputs=(x,),
        outputs=tuple(node.outputs),
        affine=affine,
        holds_scale=holds_scale,
        holds_shift=holds_shift,
        largest=largest(tensor.dtype),
        step=step(tensor.dtype),
    )


def _of_values(context: Context, node: ir.Node, terms: tuple[ir.Value, ...]) -> View:
    """Arithmetic on values of which none is constant."""
    shapes = tuple(context.shape(term) for term in terms)
    outputs = tuple(node.outputs)
    if node.op_type == "Mul":
        return Product(node=node, op=node.op_type, inputs=terms, outputs=outputs, shapes=shapes)
    if node.op_type == "Div":
        raise NotLifted(AFFINE, f"{context.label(node)} divides by a value, which is not an affine map of it")
    signs = (1, -1) if node.op_type == "Sub" else (1,) * len(terms)
    return Sum(node=node, op=node.op_type, inputs=terms, outputs=outputs, signs=signs, shapes=shapes)


def _sum(context: Context, node: ir.Node) -> View:
    return _of_values(context, node, tuple(data(node, k) for k in range(len(node.inputs))))


def _meaning(label: str, op: str, k: Array, *, constant_first: bool) -> tuple[Affine, bool, bool]:
    """The affine map of ``x op k`` (or ``k op x``), and whether it has room for a scale and for a shift."""
    if op == "Mul":
        return Affine.of(k), True, False
    if op == "Add":
        return Affine.of(shift=k), False, True
    if op == "Sub":
        return (Affine.of(-1.0, k), False, False) if constant_first else (Affine.of(shift=-k), False, True)
    if constant_first:
        raise NotLifted(AFFINE, f"{label} divides a constant by its input, which is not an affine map")
    if not np.all(k):
        raise NotLifted(FINITE, f"{label} divides by zero")
    with np.errstate(over="ignore"):  # below the normal numbers; `finite` says so
        return Affine.of(1 / k), False, False


def refuse_growth(context: Context, node: ir.Node, x: ir.Value, constant: Array) -> None:
    """A constant that enlarges the value by broadcasting cannot be held before the operation."""
    wanted = trim(constant).shape
    if not wanted and constant.ndim <= 1:
        return
    shape = context.shape(x)
    if shape is not None and constant.ndim <= len(shape):
        have = shape[len(shape) - len(wanted) :]
        if all(size in (1, dim) for size, dim in zip(wanted, have, strict=True)):
            return
    raise NotLifted(SAME_SHAPE, f"the constant of {context.label(node)} is not known to fit inside its input's shape")


def _negation(_: Context, node: ir.Node) -> View:
    return AffineOp(
        node=node,
        op=node.op_type,
        inputs=(data(node),),
        outputs=tuple(node.outputs),
        affine=Affine.of(-1.0),
        holds_scale=False,
        holds_shift=False,
        largest=float("inf"),
    )


def scaler(context: Context, node: ir.Node) -> View:
    """``(x - offset) * scale`` along the last axis, in float32: what scikit-learn's scalers are exported as."""
    label, x = context.label(node), data(node)
    if context.dtype(x) != ir.DataType.FLOAT:
        raise NotLifted(FLOATING_POINT, f"{label} makes float32 of {context.dtype(x)}, which another one cannot take")
    offset, scale = (trim(node.attributes.get_floats(name, ())) for name in ("offset", "scale"))
    features = (context.shape(x) or (None,))[-1]
    if any(constant.size not in (1, features) for constant in (offset, scale)):
        raise NotLifted(WELL_FORMED, f"{label} has not one offset and one scale for each feature")
    affine = Affine.of(scale, -offset * scale)
    if not affine.finite:
        raise NotLifted(FINITE, f"a constant of {label} is not a number")
    return AffineOp(
        node=node,
        op=node.op_type,
        inputs=(x,),
        outputs=tuple(node.outputs),
        affine=affine,
        holds_scale=False,
        holds_shift=False,
        largest=float("inf"),
    )


LIFTS: dict[str, Callable[[Context, ir.Node], View]] = {
    "BatchNormalization": _batch_normalization,
    "Mul": _arithmetic,
    "Add": _arithmetic,
    "Sub": _arithmetic,
    "Div": _arithmetic,
    "Neg": _negation,
    "Sum": _sum,
}
