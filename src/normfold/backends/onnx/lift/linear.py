"""Conv, ConvTranspose, Gemm and MatMul as `Linear`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import onnx_ir as ir

from normfold.backends.onnx.lift.context import Context, all_equal, check_window, data, window
from normfold.backends.onnx.reading.constants import OVERRIDABLE, WeightTensor, exact, largest, step
from normfold.core.algebra import Weight, trim
from normfold.core.algebra.affine import Array
from normfold.core.algebra.weight import split_shape
from normfold.core.premises import MATRIX, ROOM, WELL_FORMED
from normfold.core.views import Linear, MatrixProduct, NotLifted, View

Order = Literal["goi", "gio"]


def canonical_weight(tensor: ir.TensorProtocol, split: tuple[int, ...], order: Order) -> Weight:
    """``tensor`` as a canonical weight; the pending scales of one already folded are taken over."""
    if isinstance(tensor, WeightTensor) and (tensor.weight.split, tensor.weight.order) == (split, order):
        return tensor.weight
    return Weight(tensor, split, order)


def _convolution(context: Context, node: ir.Node) -> View:
    transposed = node.op_type == "ConvTranspose"
    tensor = context.tensor(node, 1, "the weight")
    native = tuple(tensor.shape.numpy())
    spatial = len(native) - 2
    groups = node.attributes.get_int("group", 1)
    if spatial < 1 or groups < 1 or native[0] % groups:
        raise NotLifted(WELL_FORMED, f"the weight of {context.label(node)} has shape {list(native)}, group {groups}")
    check_window(context, node, native[2:])
    weight = canonical_weight(tensor, split_shape(native, groups), "gio" if transposed else "goi")
    context.same_size(node, data(node), 1, weight.in_channels)
    bias = context.optional(node, 2, "the bias")
    # Exporters have written one element for no bias: ONNX Runtime rejects it, so nothing says what it means.
    context.require(node, "the bias", fits=bias is None or bias.shape.numpy() == (weight.out_channels,))
    return Linear(
        node=node,
        op=node.op_type,
        inputs=(data(node),),
        outputs=tuple(node.outputs),
        weight=weight,
        bias=None if bias is None else trim(exact(bias).reshape(-1, *[1] * spatial)),
        out_axes=(-1 - spatial,),
        out_sizes=(weight.out_channels,),
        in_axes=(-1 - spatial,),
        in_sizes=(weight.in_channels,),
        whole_taps=_whole_taps(node, native[2:], transposed=transposed),
        bias_slot=True,
        largest=largest(tensor.dtype),
        step=step(tensor.dtype),
        window=None if transposed else window(node, native[2:]),
    )


def _whole_taps(node: ir.Node, kernel: tuple[int, ...], *, transposed: bool) -> bool:
    ones, zeros = [1] * len(kernel), [0] * len(kernel)
    attributes = node.attributes
    auto_pad = attributes.get_string("auto_pad", "NOTSET")
    pads = list(attributes.get_ints("pads", zeros * 2))
    if not transposed:
        return auto_pad == "VALID" or (auto_pad == "NOTSET" and all_equal(pads, 0))
    dilations = attributes.get_ints("dilations", ones)
    reach = [dilation * (size - 1) for dilation, size in zip(dilations, kernel, strict=True)]
    return (
        auto_pad == "NOTSET"
        and "output_shape" not in attributes
        and all_equal(attributes.get_ints("strides", ones), 1)
        and all_equal(attributes.get_ints("output_padding", zeros), 0)
        and all(pad >= need for pad, need in zip(pads, reach * 2, strict=True))
    )


def _constant_side(context: Context, node: ir.Node) -> tuple[int, ir.TensorProtocol]:
    """Which of the two operands of a matrix product is the weight."""
    for index in (1, 0):
        if not isinstance(context.constants.find(data(node, index)), str):
            return index, context.tensor(node, index, "the weight")
    return 1, context.tensor(node, 1, "the weight")


def _gemm(context: Context, node: ir.Node) -> View:
    side, tensor = _constant_side(context, node)
    flipped = bool(node.attributes.get_int("transB" if side else "transA", 0))
    x_flipped = bool(node.attributes.get_int("transA" if side else "transB", 0))
    # Rows of the stored matrix are output channels in `x @ W.T` and in `W @ x`.
    order: Order = "goi" if flipped == bool(side) else "gio"
    context.require(node, "the weight", fits=len(tensor.shape) == 2)
    weight = canonical_weight(tensor, (1, *tensor.shape.numpy()), order)
    x, in_axis = data(node, 1 - side), -1 if bool(side) != x_flipped else -2
    context.require(node, "the number of axes", fits=context.rank(x) in (None, 2))
    context.same_size(node, x, in_axis, weight.in_channels)
    alpha, beta = node.attributes.get_float("alpha", 1.0), node.attributes.get_float("beta", 1.0)
    bias = context.optional(node, 2, "the bias")
    if bias is not None:
        rows = (1, 1, *bias.shape.numpy())[-1 if side else -2]
        context.require(node, "the bias", fits=len(bias.shape) <= 2 and rows in (1, weight.out_channels))
    return Linear(
        node=node,
        op=node.op_type,
        inputs=(x,),
        outputs=tuple(node.outputs),
        weight=weight if alpha == 1 else weight.scale_rows(np.asarray(alpha)),
        bias=None if bias is None else trim(beta * exact(bias)),
        out_axes=(-1 if side else -2,),
        out_sizes=(weight.out_channels,),
        in_axes=(in_axis,),
        in_sizes=(weight.in_channels,),
        whole_taps=True,
        bias_slot=True,
        largest=largest(tensor.dtype),
        step=step(tensor.dtype),
    )


def _matmul(context: Context, node: ir.Node) -> View:
    if context.opset < 7:
        raise NotLifted(ROOM, f"{context.label(node)} has no bias, and before opset 7 an Add does not broadcast")
    if _of_values(context, node):
        return _matrix_product(context, node)
    side, tensor = _constant_side(context, node)
    native, x = tuple(tensor.shape.numpy()), data(node, 1 - side)
    rank = context.rank(x)
    if len(native) < 2 or ((not side or len(native) > 2) and (rank is None or rank < 2)):
        raise NotLifted(MATRIX, f"an operand of {context.label(node)} is a vector, or its rank is not known")
    weight = canonical_weight(tensor, split_shape(native, 1, matrix=True), "gio" if side else "goi")
    if rank != 1:
        context.same_size(node, x, -1 if side else -2, weight.in_per_group)
    batch = tuple(range(-len(native), -2))
    return Linear(
        node=node,
        op=node.op_type,
        inputs=(x,),
        outputs=tuple(node.outputs),
        weight=weight,
        bias=None,
        out_axes=(*batch, -1 if side else -2),
        out_sizes=(*native[:-2], weight.out_per_group),
        in_axes=(*batch, -1 if side else -2),
        in_sizes=(*native[:-2], weight.in_per_group),
        whole_taps=True,
        bias_slot=False,
        largest=largest(tensor.dtype),
        step=step(tensor.dtype),
    )


def _of_values(context: Context, node: ir.Node) -> bool:
    """Whether both operands are computed at run time; one that a caller may override is a weight all the same."""
    found = [context.constants.find(data(node, side)) for side in (0, 1)]
    return all(isinstance(why, str) and not why.endswith(OVERRIDABLE) for why in found)


def _matrix_product(context: Context, node: ir.Node) -> View:
    factors = (data(node, 0), data(node, 1))
    left, right = (context.shape(factor) for factor in factors)
    if left is None or right is None or len(left) < 2 or len(right) < 2:
        raise NotLifted(MATRIX, f"an operand of {context.label(node)} is a vector, or its rank is not known")
    return MatrixProduct(node=node, op=node.op_type, inputs=factors, outputs=tuple(node.outputs), shapes=(left, right))


def bias_vector(view: Linear) -> Array:
    """The bias of a convolution as ONNX stores it: [out]."""
    bias = np.zeros(()) if view.bias is None else view.bias
    return np.broadcast_to(bias.reshape(-1) if bias.size > 1 else bias.reshape(()), (view.weight.out_channels,))


def gemm_bias(view: Linear) -> Array:
    """The bias of a Gemm as ONNX stores it: broadcastable to ``[M, N]``, at least a vector."""
    bias = np.zeros(()) if view.bias is None else view.bias
    if bias.ndim or view.out_axes != (-1,):
        return np.atleast_1d(bias)
    return np.broadcast_to(bias, (view.weight.out_channels,))


LIFTS: dict[str, Callable[[Context, ir.Node], View]] = {
    "Conv": _convolution,
    "ConvTranspose": _convolution,
    "Gemm": _gemm,
    "MatMul": _matmul,
}
