"""Constant expressions: what exporters put between a stored weight and the operation that uses it.

Arithmetic runs in float64, so that ``Sqrt(var + eps)`` does not lose an epsilon that float16 cannot hold.
Results above `LIMIT` elements are not computed: a few bytes of model can ask for terabytes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from math import prod
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from normfold.backends.onnx.reading.constants import (
    CODES,
    FLOATS,
    Arguments,
    ExactTensor,
    Expression,
    code_limits,
    exact,
)
from normfold.core.algebra.affine import Array
from normfold.core.laws.collapse import inference_norm

LIMIT = 1 << 29
"""Most elements that a constant expression may make."""


SIZES = frozenset({ir.DataType.INT32, ir.DataType.INT64})
"""Types in which exporters compute sizes."""


def _arithmetic(
    function: Callable[..., NDArray[np.generic]], sizes: Callable[..., NDArray[np.generic]] | None = None
) -> Expression:
    """``function`` of floats in float64, ``sizes`` of integers in their own type."""

    def evaluate(_: ir.Node, arguments: Arguments) -> ir.TensorProtocol | None:
        tensors = [t for t in arguments if t is not None]
        if not tensors or len({t.dtype for t in tensors}) != 1:
            return None
        if prod(np.broadcast_shapes(*(t.shape.numpy() for t in tensors))) > LIMIT:
            return None
        dtype = tensors[0].dtype
        with np.errstate(all="ignore"):
            if dtype in SIZES and sizes is not None:
                return ir.Tensor(np.asarray(sizes(*(t.numpy() for t in tensors)), dtype=dtype.numpy()), dtype=dtype)
            if dtype not in FLOATS:
                return None
            return ExactTensor(np.asarray(function(*map(exact, tensors)), dtype=np.float64), dtype)

    return evaluate


def _quotient(dividend: NDArray[np.generic], divisor: NDArray[np.generic]) -> NDArray[np.generic]:
    """Integer division as the specification of Div says: what is left over is cut off."""
    if not np.all(divisor):
        raise ValueError("a division by zero")
    return np.asarray(np.sign(dividend) * np.sign(divisor) * (np.abs(dividend) // np.abs(divisor)))


def _modulus(node: ir.Node, arguments: Arguments) -> ir.TensorProtocol | None:
    dividend, divisor = arguments
    if dividend is None or divisor is None or not {dividend.dtype, divisor.dtype} <= SIZES or not divisor.numpy().all():
        return None
    function = np.fmod if node.attributes.get_int("fmod", 0) else np.mod
    return ir.Tensor(np.asarray(function(dividend.numpy(), divisor.numpy())), dtype=dividend.dtype)


def _slice(node: ir.Node, arguments: Arguments) -> ir.TensorProtocol | None:
    tensor, *bounds = arguments
    if tensor is None or (bounds and (bounds[0] is None or bounds[1] is None)):
        return None
    given = [None if t is None else [int(k) for k in np.ravel(t.numpy())] for t in bounds]
    attributes = [list(node.attributes.get_ints(name, ())) for name in ("starts", "ends", "axes")]
    starts, ends, axes, steps = (*given, *[None] * (4 - len(given))) if given else (*attributes, None)
    if starts is None or ends is None:
        return None
    picked = [slice(None)] * len(tensor.shape)
    for axis, start, end, step in zip(
        axes or range(len(starts)), starts, ends, steps or [1] * len(starts), strict=True
    ):
        # Counted from the end, the place before the first element is further away than any that there is.
        picked[axis] = slice(start, None if step < 0 and end < -tensor.shape.numpy()[axis] else end, step)
    return ir.Tensor(np.ascontiguousarray(tensor.numpy()[tuple(picked)]), dtype=tensor.dtype)


def _rearranged(
    function: Callable[[ir.Node, NDArray[np.generic], list[int]], NDArray[np.generic] | None],
) -> Expression:
    def evaluate(node: ir.Node, arguments: Arguments) -> ir.TensorProtocol | None:
        tensor = arguments[0]
        if tensor is None:
            return None
        integers = [int(k) for t in arguments[1:] if t is not None for k in np.ravel(t.numpy())]
        values: Array | NDArray[np.generic] = exact(tensor) if isinstance(tensor, ExactTensor) else tensor.numpy()
        moved = function(node, values, integers)
        if moved is None:
            return None
        return (
            ExactTensor(np.asarray(moved), tensor.dtype)
            if isinstance(tensor, ExactTensor)
            else ir.Tensor(moved, dtype=tensor.dtype)
        )

    return evaluate


def _transpose(node: ir.Node, values: NDArray[np.generic], _: list[int]) -> NDArray[np.generic]:
    order = node.attributes.get_ints("perm", None)
    return values.transpose(order)


def _reshape(node: ir.Node, values: NDArray[np.generic], target: list[int]) -> NDArray[np.generic] | None:
    if node.attributes.get_int("allowzero", 0):
        return values.reshape(target)
    return values.reshape([values.shape[k] if size == 0 else size for k, size in enumerate(target)])


def _axes(node: ir.Node, integers: list[int]) -> list[int]:
    return list(node.attributes.get_ints("axes", integers) or integers)


def _squeeze(node: ir.Node, values: NDArray[np.generic], integers: list[int]) -> NDArray[np.generic]:
    return values.squeeze(tuple(_axes(node, integers)) or None)


def _unsqueeze(node: ir.Node, values: NDArray[np.generic], integers: list[int]) -> NDArray[np.generic]:
    return np.expand_dims(values, tuple(_axes(node, integers)))


def _flatten(node: ir.Node, values: NDArray[np.generic], _: list[int]) -> NDArray[np.generic]:
    axis = node.attributes.get_int("axis", 1) % (values.ndim + 1)
    return values.reshape(prod(values.shape[:axis]), -1)


def _identity(_: ir.Node, arguments: Arguments) -> ir.TensorProtocol | None:
    return arguments[0]


def _cast(node: ir.Node, arguments: Arguments) -> ir.TensorProtocol | None:
    return _converted(arguments[0], ir.DataType(node.attributes.get_int("to")))


def _converted(tensor: ir.TensorProtocol | None, target: ir.DataType | None) -> ir.TensorProtocol | None:
    """``tensor`` as another type. A single integer may stand for a float; several are codes, and stay as stored."""
    if tensor is None or target is None:
        return None
    if {tensor.dtype, target} <= SIZES:
        return ir.Tensor(tensor.numpy().astype(target.numpy()), dtype=target)
    if target not in FLOATS:
        return None
    if tensor.dtype not in FLOATS and not (tensor.dtype.is_integer() and tensor.size == 1):
        return None
    return ir.Tensor(tensor.numpy().astype(target.numpy()), dtype=target)


def _unread(_: ir.Node, __: Arguments) -> ir.TensorProtocol | None:
    """Shape is read by `Constants`, which knows the dimensions of values that are not constant, too."""
    return None


def _cast_like(node: ir.Node, arguments: Arguments) -> ir.TensorProtocol | None:
    tensor, like = arguments[0], node.inputs[1]
    target = None if like is None else like.dtype
    return tensor if tensor is None or tensor.dtype == target else _converted(tensor, target)


def _expand(_: ir.Node, arguments: Arguments) -> ir.TensorProtocol | None:
    tensor, sizes = arguments
    if tensor is None or sizes is None:
        return None
    shape = np.broadcast_shapes(tuple(tensor.shape.numpy()), tuple(int(k) for k in sizes.numpy()))
    return None if prod(shape) > LIMIT else ir.Tensor(np.broadcast_to(tensor.numpy(), shape), dtype=tensor.dtype)


def _concat(node: ir.Node, arguments: Arguments) -> ir.TensorProtocol | None:
    tensors = [tensor for tensor in arguments if tensor is not None]
    if len(tensors) != len(arguments) or sum(tensor.size for tensor in tensors) > LIMIT:
        return None
    joined = np.concatenate([tensor.numpy() for tensor in tensors], axis=node.attributes.get_int("axis", 0))
    return ir.Tensor(joined, dtype=tensors[0].dtype)


def _gather(node: ir.Node, arguments: Arguments) -> ir.TensorProtocol | None:
    tensor, indices = arguments
    if tensor is None or indices is None or tensor.size * max(1, indices.size) > LIMIT:
        return None
    taken = np.take(tensor.numpy(), indices.numpy().astype(np.int64), axis=node.attributes.get_int("axis", 0))
    return ir.Tensor(np.asarray(taken), dtype=tensor.dtype)


def _filled(node: ir.Node, arguments: Arguments) -> ir.TensorProtocol | None:
    if arguments[0] is None:
        return None
    shape = [int(k) for k in arguments[0].numpy()]
    fill = node.attributes.get("value")
    tensor = ir.tensor(np.zeros(1, np.float32)) if fill is None else fill.as_tensor()
    if any(k < 0 for k in shape) or prod(shape) > LIMIT:
        return None
    return ir.Tensor(np.broadcast_to(tensor.numpy().reshape(()), shape), dtype=tensor.dtype)


def _reduction(function: Callable[..., Array]) -> Expression:
    def evaluate(node: ir.Node, arguments: Arguments) -> ir.TensorProtocol | None:
        tensor = arguments[0]
        if tensor is None or tensor.dtype not in FLOATS:
            return None
        integers = [int(k) for t in arguments[1:] if t is not None for k in np.ravel(t.numpy())]
        axes = tuple(_axes(node, integers)) or None
        if axes is None and node.attributes.get_int("noop_with_empty_axes", 0) == 1:
            return tensor
        keep = bool(node.attributes.get_int("keepdims", 1))
        return ExactTensor(np.asarray(function(exact(tensor), axis=axes, keepdims=keep)), tensor.dtype)

    return evaluate


def _l2(values: Array, **axes: Any) -> Array:
    return np.asarray(np.sqrt(np.square(values).sum(**axes)))


def _batch_normalization(node: ir.Node, arguments: Arguments) -> ir.TensorProtocol | None:
    """Weight standardisation: exporters write it as a BatchNormalization of the weight by its own statistics."""
    if len(arguments) != 5 or any(t is None or t.dtype not in FLOATS for t in arguments):
        return None
    tensors = [t for t in arguments if t is not None]
    x, scale, bias, mean, variance = map(exact, tensors)
    if node.attributes.get_int("training_mode", 0):
        axes = tuple(k for k in range(x.ndim) if k != 1)
        mean, variance = x.mean(axis=axes), x.var(axis=axes)
    spread = (-1, *[1] * (x.ndim - 2))
    epsilon = node.attributes.get_float("epsilon", 1e-5)
    scale, bias, mean, variance = (constant.reshape(spread) for constant in (scale, bias, mean, variance))
    norm = inference_norm(scale, bias, mean, variance, epsilon)
    return ExactTensor(norm.scale * x + norm.shift, tensors[0].dtype)


def _matrix_product(_: ir.Node, arguments: Arguments) -> ir.TensorProtocol | None:
    left, right = arguments
    if left is None or right is None or {left.dtype, right.dtype} - FLOATS or left.size * right.size > LIMIT:
        return None
    return ExactTensor(np.matmul(exact(left), exact(right)), left.dtype)


def _quantize(node: ir.Node, arguments: Arguments) -> ir.TensorProtocol | None:
    """The codes of a stored weight, rounded as runtimes do: in float32, halves to even, cut off where the type ends."""
    tensor, scale, zero = (*arguments, None)[:3]
    kind = _code_type(node, zero)
    if tensor is None or scale is None or tensor.dtype not in FLOATS or kind not in CODES:
        return None
    if zero is None and len(node.inputs) > 2 and node.inputs[2] is not None:
        return None
    if {"block_size", "precision"} & node.attributes.keys() or len(scale.shape) > 1:
        return None
    spread = (-1, *[1] * (len(tensor.shape) - 1 - node.attributes.get_int("axis", 1) % max(1, len(tensor.shape))))
    steps = scale.numpy().astype(np.float32).reshape(spread if scale.size > 1 else ())
    zeros = np.zeros(()) if zero is None else zero.numpy().astype(np.float32).reshape(spread if zero.size > 1 else ())
    with np.errstate(all="ignore"):
        codes = np.clip(np.rint(tensor.numpy().astype(np.float32) / steps) + zeros, *code_limits(kind))
    return ir.Tensor(codes.astype(kind.numpy()), dtype=kind) if np.isfinite(codes).all() else None


def _code_type(node: ir.Node, zero: ir.TensorProtocol | None) -> ir.DataType:
    """The type of the codes that a QuantizeLinear makes: its zero point's, or what it says itself."""
    stated = ir.DataType(node.attributes.get_int("output_dtype", 0))
    default = ir.DataType.UINT8 if stated == ir.DataType.UNDEFINED else stated
    return default if zero is None else zero.dtype


STATISTICS = frozenset({"BatchNormalization", "ReduceL2", "ReduceMean", "ReduceSum", "ReduceSumSquare"})
"""Operators by which a weight normalises itself: weight norm, spectral norm, weight standardisation."""


MOVES = frozenset({"Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose"})
"""Operators that only move elements."""


def normalises(nodes: Collection[ir.Node]) -> bool:
    """Whether the nodes of a constant expression normalise: by a statistic, or by a singular value ``u W v``."""
    products = {node.outputs[0] for node in nodes if node.op_type == "MatMul"}
    return any(node.op_type in STATISTICS for node in nodes) or any(
        node.op_type == "Div" and not products.isdisjoint(_behind(node.inputs[1])) for node in nodes
    )


def _behind(value: ir.Value | None) -> Iterator[ir.Value]:
    """``value``, and what it is made of by operations that only move elements."""
    while value is not None:
        yield value
        node = value.producer()
        value = node.inputs[0] if node is not None and node.op_type in MOVES else None


EXPRESSIONS: dict[str, Expression] = {
    "Identity": _identity,
    "Cast": _cast,
    "CastLike": _cast_like,
    "Concat": _concat,
    "Expand": _expand,
    "Gather": _gather,
    "Shape": _unread,
    "ConstantOfShape": _filled,
    "Transpose": _rearranged(_transpose),
    "Reshape": _rearranged(_reshape),
    "Flatten": _rearranged(_flatten),
    "Squeeze": _rearranged(_squeeze),
    "Unsqueeze": _rearranged(_unsqueeze),
    "Slice": _slice,
    "Mod": _modulus,
    "Add": _arithmetic(np.add, np.add),
    "Sub": _arithmetic(np.subtract, np.subtract),
    "Mul": _arithmetic(np.multiply, np.multiply),
    "Div": _arithmetic(np.divide, _quotient),
    "Neg": _arithmetic(np.negative, np.negative),
    "Sqrt": _arithmetic(np.sqrt),
    "Reciprocal": _arithmetic(np.reciprocal),
    "Pow": _arithmetic(np.power),
    "Exp": _arithmetic(np.exp),
    "Abs": _arithmetic(np.abs),
    "Max": _arithmetic(lambda *values: np.maximum.reduce(np.broadcast_arrays(*values))),
    "Min": _arithmetic(lambda *values: np.minimum.reduce(np.broadcast_arrays(*values))),
    "ReduceL2": _reduction(_l2),
    "ReduceMean": _reduction(np.mean),
    "ReduceSum": _reduction(np.sum),
    "ReduceSumSquare": _reduction(lambda values, **axes: np.square(values).sum(**axes)),
    "MatMul": _matrix_product,
    "BatchNormalization": _batch_normalization,
    "QuantizeLinear": _quantize,
}
