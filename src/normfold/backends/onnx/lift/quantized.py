"""Linear operations whose weight a DequantizeLinear makes of constant codes, as `QuantizedLinear`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir

from normfold.backends.onnx.lift import linear
from normfold.backends.onnx.lift.context import Context, data
from normfold.backends.onnx.lift.moving import LIFTS as MOVERS
from normfold.backends.onnx.reading.constants import (
    CODES,
    Constants,
    ExactTensor,
    code_limits,
    exact,
    largest,
    least_normal,
)
from normfold.backends.onnx.reading.expressions import EXPRESSIONS, MOVES
from normfold.core.algebra import Codes
from normfold.core.algebra.affine import Array
from normfold.core.algebra.moves import followed
from normfold.core.premises import CONSTANT, PER_OUTPUT_CHANNEL, SCALE_AXIS, WELL_FORMED, WHOLE_CODES
from normfold.core.views import Linear, Moving, NotLifted, QuantizedLinear, View

DOMAINS = ("", "ai.onnx", "com.microsoft")
"""Where there is a DequantizeLinear; the last one has 16 bits and scales along an axis in any opset."""


class _Seen(Constants):
    """Constants in which some dequantised values count as known."""

    def __init__(self, constants: Constants, seen: Mapping[ir.Value, ir.TensorProtocol]) -> None:
        self._constants = constants
        self._seen = seen

    def find(self, value: ir.Value) -> ir.TensorProtocol | str:
        """What `Constants.find` says, with the dequantised values."""
        return self._seen[value] if value in self._seen else self._constants.find(value)


def weight_slot(context: Context, node: ir.Node) -> int | None:
    """Index of the operand that is dequantised from constant codes; ``None`` where there is none, or a plain weight."""
    for slot in (1,) if node.op_type in ("Conv", "ConvTranspose") else (1, 0):
        value = data(node, slot)
        if not isinstance(context.constants.find(value), str):
            return None
        dequantizer, _ = dequantized(value)
        if dequantizer is not None and not isinstance(context.constants.find(data(dequantizer)), str):
            return slot
    return None


def dequantized(value: ir.Value | None) -> tuple[ir.Node | None, list[ir.Node]]:
    """The DequantizeLinear that makes ``value``, and the operations that only move what it makes, in their order."""
    moves: list[ir.Node] = []
    while (node := None if value is None else value.producer()) is not None and node.op_type in MOVES:
        moves.append(node)
        value = node.inputs[0] if node.inputs else None
    return dequantizer_of(value), moves[::-1]


def dequantizer_of(value: ir.Value | None) -> ir.Node | None:
    """The DequantizeLinear that makes ``value``."""
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == "DequantizeLinear" and node.domain in DOMAINS else None


def _or_quantized(lift: Callable[[Context, ir.Node], View]) -> Callable[[Context, ir.Node], View]:
    """``lift``, for weights of codes, too."""

    def either(context: Context, node: ir.Node) -> View:
        slot = weight_slot(context, node)
        return lift(context, node) if slot is None else _quantized(context, node, slot, lift)

    return either


def _quantized(context: Context, node: ir.Node, slot: int, lift: Callable[[Context, ir.Node], View]) -> View:
    weight = data(node, slot)
    dequantizer, moves = dequantized(weight)
    if dequantizer is None:
        raise TypeError("not a weight of codes")
    codes, dtype = _codes(context, node, slot, dequantizer, moves)
    seen: dict[ir.Value, ir.TensorProtocol] = {weight: _moved(context, _dequantized(codes, dtype), moves)}
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    step = None
    if bias is not None and dequantizer_of(bias) is not None:
        step, seen[bias] = _bias(context, node, bias)
    view = lift(replace(context, constants=_Seen(context.constants, seen)), node)
    if not isinstance(view, Linear):
        raise TypeError(f"{node.op_type} is not linear")
    return QuantizedLinear(
        node=view.node,
        op=view.op,
        inputs=view.inputs,
        outputs=view.outputs,
        linear=view,
        codes=codes,
        unit=_unit(context, node, view, step, codes.scale),
    )


def _codes(
    context: Context, node: ir.Node, slot: int, dequantizer: ir.Node, moves: Sequence[ir.Node]
) -> tuple[Codes, ir.DataType]:
    """The codes behind operand ``slot`` of ``node``, and the type of what they stand for."""
    label = context.label(node)
    stored = context.constants.find(data(dequantizer))
    if isinstance(stored, str) or stored.dtype not in CODES:
        raise NotLifted(WHOLE_CODES, f"the quantised weight of {label} is not made of integers of 4, 8 or 16 bits")
    tensor = context.tensor(dequantizer, 1, "the scale")
    scale, zero_point = exact(tensor), _zero_point(context, dequantizer)
    native = stored.shape.numpy()
    axis = _stored_axis(context, node, slot, moves, len(native))
    if not _follow(dequantizer, scale, zero_point, axis, native):
        raise NotLifted(SCALE_AXIS, f"the scales of the quantised weight of {label} do not follow its outputs")
    if not bool((np.isfinite(scale) & (scale > 0)).all()):
        raise NotLifted(WELL_FORMED, f"a scale of the quantised weight of {label} is not a positive number")
    codes = Codes(
        values=stored,
        axis=axis,
        scale=np.broadcast_to(scale.reshape(-1), (native[axis],)),
        zero_point=np.broadcast_to(zero_point.reshape(-1), (native[axis],)).astype(np.int32),
        limits=code_limits(stored.dtype),
        normal=(least_normal(tensor.dtype), largest(tensor.dtype)),
        single=scale.size == 1,
        per_axis=dequantizer.domain == "com.microsoft" or context.opset >= 13,
    )
    return codes, tensor.dtype


def _zero_point(context: Context, dequantizer: ir.Node) -> Array:
    if len(dequantizer.inputs) < 3 or dequantizer.inputs[2] is None:
        return np.zeros_like(context.constant(dequantizer, 1))
    found = context.constant(dequantizer, 2)
    if found is None:
        raise NotLifted(CONSTANT, f"the zero point of {context.label(dequantizer)} is computed at run time")
    return found


def _follow(dequantizer: ir.Node, scale: Array, zero_point: Array, axis: int, native: Sequence[int]) -> bool:
    """Whether there is one scale for all of a weight, or one for each index of its ``axis``."""
    blocked = dequantizer.attributes.get_int("block_size", 0) or scale.ndim > 1
    if not 0 <= axis < len(native) or blocked or zero_point.size != scale.size:
        return False
    return scale.size == 1 or (
        dequantizer.attributes.get_int("axis", 1) % len(native) == axis and scale.size == native[axis]
    )


def _output_axis(node: ir.Node, slot: int, rank: int) -> int:
    """The axis of the stored weight that counts output channels, or those of one group."""
    if node.op_type in ("Conv", "ConvTranspose"):
        return 0 if node.op_type == "Conv" else 1
    flipped = node.attributes.get_int("transB" if slot else "transA", 0) if node.op_type == "Gemm" else 0
    return rank - 2 if bool(slot) == bool(flipped) else rank - 1


def _stored_axis(context: Context, node: ir.Node, slot: int, moves: Sequence[ir.Node], rank: int) -> int:
    """Where the output channels of ``node`` stand in the weight as it is stored, before the ``moves``."""
    if not moves:
        return _output_axis(node, slot, rank)
    shape = context.shape(moves[-1].outputs[0])
    axis = None if shape is None else _output_axis(node, slot, len(shape))
    size = None if shape is None or axis is None or not 0 <= axis < len(shape) else shape[axis]
    place = None if shape is None or axis is None else axis - len(shape)
    for move in reversed(moves):
        view = MOVERS[move.op_type](context, move)
        if place is None or not isinstance(size, int) or not isinstance(view, Moving):
            break
        place = followed(view.moves[0], place, size, backward=True)
    if place is None or not isinstance(size, int):
        because = f"the outputs of {context.label(node)} cannot be followed through {context.label(moves[-1])}"
        raise NotLifted(SCALE_AXIS, because)
    return rank + place


def _moved(context: Context, tensor: ir.TensorProtocol, moves: Sequence[ir.Node]) -> ir.TensorProtocol:
    """``tensor`` behind the operations that only move its elements, computed when it is read."""
    if not moves:
        return tensor
    shape = context.shape(moves[-1].outputs[0]) or ()

    def whole() -> ir.Tensor[Any]:
        found: ir.TensorProtocol | None = tensor
        for move in moves:
            operands = [None if k is None else context.constants.find(k) for k in move.inputs[1:]]
            known = [operand for operand in operands if not isinstance(operand, str)]
            found = EXPRESSIONS[move.op_type](move, [found, *known])
        if found is None:
            raise ValueError(f"{context.label(moves[-1])} was lifted and cannot be evaluated")
        return ir.Tensor(found.numpy(), dtype=tensor.dtype)

    return ir.LazyTensor(whole, tensor.dtype, ir.Shape(shape))


def _dequantized(codes: Codes, dtype: ir.DataType) -> ir.TensorProtocol:
    """What ``codes`` stand for, computed when it is read."""
    shape = codes.values.numpy().shape
    return ir.LazyTensor(lambda: ir.Tensor(codes.numpy().astype(dtype.numpy()), dtype=dtype), dtype, ir.Shape(shape))


def _bias(context: Context, node: ir.Node, bias: ir.Value) -> tuple[Array, ExactTensor]:
    """The step of a quantised bias (``[]`` or ``[out]``), and what it stands for."""
    dequantizer, label = dequantizer_of(bias), context.label(node)
    if dequantizer is None:
        raise TypeError("not a bias of codes")
    stored = context.constants.find(data(dequantizer))
    if isinstance(stored, str):
        raise NotLifted(CONSTANT, f"the bias of {label} is not constant: {stored}")
    tensor, zero = context.tensor(dequantizer, 1, "the scale"), context.constant(dequantizer, 2)
    codes, step = exact(stored).reshape(-1), exact(tensor).reshape(-1)
    if stored.dtype != ir.DataType.INT32 or len(stored.shape) != 1 or (zero is not None and zero.any()):
        raise NotLifted(WHOLE_CODES, f"the quantised bias of {label} is not a vector of int32 around zero")
    if step.size not in (1, codes.size) or not bool((np.isfinite(step) & (step > 0)).all()):
        raise NotLifted(WELL_FORMED, f"the steps of the quantised bias of {label} do not fit it, or are not positive")
    return step if step.size > 1 else step.reshape(()), ExactTensor(codes * step, tensor.dtype)


def _unit(context: Context, node: ir.Node, view: Linear, step: Array | None, scale: Array) -> Array | None:
    """The step of a quantised bias over the weight's scale: where the input is dequantised, that is the input's scale.

    Integer kernels take the bias for whole multiples of both scales' product, whatever it says of itself. One that is
    not quantised stays so: rounded to such steps it moves one code in some thousands, and runtimes that need it in
    steps round it themselves.
    """
    if step is None:
        return None
    if view.out_axes != (-1,) and node.op_type not in ("Conv", "ConvTranspose"):
        because = f"the quantised bias of {context.label(node)} does not follow its output channels"
        raise NotLifted(PER_OUTPUT_CHANNEL, because)
    x = view.inputs[0]
    dequantizer = dequantizer_of(x) if isinstance(x, ir.Value) else None
    given = None if dequantizer is None else context.constant(dequantizer, 1)
    if given is not None and given.size == 1:
        return given.reshape(())
    return step / np.tile(scale, view.weight.out_channels // scale.size)


LIFTS: dict[str, Callable[[Context, ir.Node], View]] = {op: _or_quantized(lift) for op, lift in linear.LIFTS.items()}
