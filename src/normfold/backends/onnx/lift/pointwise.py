"""Activations, Clip, Pad and Concat."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from normfold.backends.onnx.lift.affine import refuse_growth
from normfold.backends.onnx.lift.context import Context, data
from normfold.backends.onnx.lift.moving import identity
from normfold.core.algebra import trim
from normfold.core.algebra.affine import Array
from normfold.core.premises import CONSTANT, FINITE, KNOWN_PARTS, STATIC_RESHAPE, WELL_FORMED
from normfold.core.views import Clip, Concat, NotLifted, Pad, PositiveHomogeneous, View


def _homogeneous(_: Context, node: ir.Node) -> View:
    return PositiveHomogeneous(node=node, op=node.op_type, inputs=(data(node),), outputs=tuple(node.outputs))


def _extremum(context: Context, node: ir.Node) -> View:
    """Max and Min of a value and a constant; by zero, as PyTorch exports a clamp with one bound, a rectifier."""
    constants = [context.constants.array(value) for value in node.inputs]
    given = [k for k, constant in enumerate(constants) if constant is not None]
    if len(constants) != 2 or len(given) != 1:
        raise NotLifted(CONSTANT, f"{context.label(node)} does not compare a value with a constant")
    bound, x = constants[given[0]], data(node, 1 - given[0])
    if _is_zero(bound):
        return PositiveHomogeneous(node=node, op=node.op_type, inputs=(x,), outputs=tuple(node.outputs))
    if context.opset < 8 or bound is None or not bool(np.isfinite(bound).all()):
        raise NotLifted(FINITE, f"the constant of {context.label(node)} is not a number, or does not broadcast")
    refuse_growth(context, node, x, bound)
    lower = node.op_type == "Max"
    return Clip(
        node=node,
        op=node.op_type,
        inputs=(x,),
        outputs=tuple(node.outputs),
        low=trim(bound) if lower else np.asarray(-np.inf),
        high=np.asarray(np.inf) if lower else trim(bound),
        uniform=False,
        holds_low=lower,
        holds_high=not lower,
    )


def _is_zero(constant: Array | None) -> bool:
    return constant is not None and constant.size == 1 and not constant.any()


def _bound(context: Context, node: ir.Node, attribute: str, index: int, default: float) -> float:
    if context.opset < 11:
        return node.attributes.get_float(attribute, default)
    if index >= len(node.inputs) or node.inputs[index] is None:
        return default
    values = context.constant(node, index)
    if values is None or values.size != 1:
        raise NotLifted(CONSTANT, f"the {attribute} of {context.label(node)} is computed at run time")
    return float(values.reshape(()))


def _clip(context: Context, node: ir.Node) -> View:
    low, high = _bound(context, node, "min", 1, float("-inf")), _bound(context, node, "max", 2, float("inf"))
    if not low <= high:
        raise NotLifted(WELL_FORMED, f"the bounds of {context.label(node)} are in the wrong order")
    return Clip(
        node=node,
        op=node.op_type,
        inputs=(data(node),),
        outputs=tuple(node.outputs),
        low=np.asarray(low),
        high=np.asarray(high),
    )


def _pad(context: Context, node: ir.Node) -> View:
    rank = context.rank(data(node))
    pads = list(node.attributes.get_ints("pads", ())) or context.integers(node, "pads", 1)
    if rank is None or pads is None:
        raise NotLifted(STATIC_RESHAPE, f"the rank of the input of {context.label(node)} or its pads are not known")
    chosen = context.integers(node, "axes", 3) if context.opset >= 18 else None
    axes, half = context.axes(node, chosen or range(rank), rank), len(pads) // 2
    context.require(node, "the length of pads", fits=len(pads) == 2 * len(axes))
    padded = tuple(axis for axis, begin, end in zip(axes, pads[:half], pads[half:], strict=True) if begin or end)
    if not padded:
        return identity(context, node)
    constant = node.attributes.get_string("mode", "constant") == "constant"
    return Pad(
        node=node,
        op=node.op_type,
        inputs=(data(node),),
        outputs=tuple(node.outputs),
        axes=padded,
        value=_bound(context, node, "value", 2, 0.0) if constant else None,
    )


def _concat(context: Context, node: ir.Node) -> View:
    if len(node.inputs) == 1:
        return identity(context, node)
    values = tuple(data(node, k) for k in range(len(node.inputs)))
    shapes = [context.shape(value) for value in values]
    rank = next((len(shape) for shape in shapes if shape is not None), None)
    if rank is None:
        raise NotLifted(KNOWN_PARTS, f"the shapes of the parts of {context.label(node)} are not known")
    context.require(node, "the number of axes", fits=all(shape is None or len(shape) == rank for shape in shapes))
    (axis,) = context.axes(node, (node.attributes.get_int("axis", 1),), rank)
    dims = [None if shape is None else shape[axis] for shape in shapes]
    sizes = tuple(dim if isinstance(dim, int) else 0 for dim in dims)
    return Concat(node=node, op=node.op_type, inputs=values, outputs=tuple(node.outputs), axis=axis, sizes=sizes)


LIFTS: dict[str, Callable[[Context, ir.Node], View]] = {
    "Relu": _homogeneous,
    "LeakyRelu": _homogeneous,
    "PRelu": _homogeneous,
    "Abs": _homogeneous,
    "Max": _extremum,
    "Min": _extremum,
    "Clip": _clip,
    "Pad": _pad,
    "Concat": _concat,
}
