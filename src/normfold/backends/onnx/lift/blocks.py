"""MatMulNBits of com.microsoft, ONNX Runtime's product with a weight quantised in blocks, as `BlockLinear`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from normfold.backends.onnx.lift.context import Context, data
from normfold.backends.onnx.reading.constants import exact, largest, least_normal
from normfold.core.algebra import Weight, trim
from normfold.core.algebra.affine import Array
from normfold.core.premises import CONSTANT, SCALE_AXIS, WHOLE_CODES
from normfold.core.views import BlockLinear, Linear, NotLifted, View

CODES, SCALES, ZERO_POINTS, ORDER, BIAS = 1, 2, 3, 4, 5
"""Which input is which."""
INTEGER_KERNEL = 4
"""The least accuracy level at which the input is rounded to int8."""
BITS = (2, 4, 8)


@dataclass(frozen=True, eq=False)
class _Blocks:
    """The weight ``[out, in]`` that packed codes stand for, computed when it is read."""

    codes: ir.TensorProtocol
    scales: Array
    zero_points: ir.TensorProtocol | None
    bits: int
    inputs: int

    def numpy(self) -> Array:
        """The values in float64."""
        outputs, blocks = self.scales.shape
        codes = _unpacked(self.codes, (outputs, -1), self.bits).reshape(outputs, blocks, -1)
        values: Array = (codes - self._zeros()[:, :, None]) * self.scales[:, :, None]
        return values.reshape(outputs, -1)[:, : self.inputs]

    def _zeros(self) -> Array:
        outputs, blocks = self.scales.shape
        if self.zero_points is None:
            return np.full((outputs, blocks), 2.0 ** (self.bits - 1))
        if self.zero_points.dtype != ir.DataType.UINT8:
            return exact(self.zero_points).reshape(outputs, blocks)
        return _unpacked(self.zero_points, (outputs, -1), self.bits)[:, :blocks]


def _unpacked(tensor: ir.TensorProtocol, shape: tuple[int, int], bits: int) -> Array:
    """The codes of ``bits`` that bytes hold, the lowest first, in rows as long as ``shape`` makes them."""
    stored = np.asarray(tensor.numpy(), dtype=np.uint8).reshape(shape)
    parts = [(stored >> shift) & (2**bits - 1) for shift in range(0, 8, bits)]
    return np.stack(parts, axis=-1).reshape(stored.shape[0], -1).astype(np.float64)


def _matmul_nbits(context: Context, node: ir.Node) -> View:
    label, x = context.label(node), data(node)
    inputs, outputs, bits, size = (node.attributes.get_int(name, 0) for name in ("K", "N", "bits", "block_size"))
    context.require(node, "the number of bits", fits=bits in BITS)
    context.require(node, "the size", fits=min(inputs, outputs, size) > 0)
    blocks = -(-inputs // size)
    if len(node.inputs) > ORDER and node.inputs[ORDER] is not None:
        raise NotLifted(SCALE_AXIS, f"the inputs of {label} have their blocks in another order")
    codes = _stored(context, node, CODES, "the weight")
    context.require(
        node, "the weight", fits=codes.dtype == ir.DataType.UINT8 and codes.size == outputs * blocks * size * bits // 8
    )
    scale = context.tensor(node, SCALES, "the scale")
    context.require(node, "the scale", fits=scale.size == outputs * blocks)
    bias = context.optional(node, BIAS, "the bias")
    context.require(node, "the bias", fits=bias is None or bias.shape.numpy() == (outputs,))
    context.same_size(node, x, -1, inputs)
    scales = exact(scale).reshape(outputs, blocks)
    source = _Blocks(codes, scales, _zero_points(context, node, outputs, blocks, bits), bits, inputs)
    linear = Linear(
        node=node,
        op=node.op_type,
        inputs=(x,),
        outputs=tuple(node.outputs),
        weight=Weight(source, (1, outputs, inputs), "goi"),
        bias=None if bias is None else trim(exact(bias)),
        out_axes=(-1,),
        out_sizes=(outputs,),
        in_axes=(-1,),
        in_sizes=(inputs,),
        whole_taps=True,
        bias_slot=bias is not None,
        largest=largest(scale.dtype),
    )
    return BlockLinear(
        node=node,
        op=node.op_type,
        inputs=(x,),
        outputs=tuple(node.outputs),
        linear=linear,
        size=size,
        scales=scales,
        normal=(least_normal(scale.dtype), largest(scale.dtype)),
        rounds_input=node.attributes.get_int("accuracy_level", 0) >= INTEGER_KERNEL,
    )


def unpacked_blocks(node: ir.Node, constant: Callable[[ir.Value | None], ir.TensorProtocol | None]) -> Array | None:
    """The weight ``[out, in]`` of a MatMulNBits node; None where a part of it is not constant, or it has an order."""
    inputs, outputs, bits, size = (node.attributes.get_int(name, 0) for name in ("K", "N", "bits", "block_size"))
    operands = [*node.inputs, *[None] * (BIAS + 1 - len(node.inputs))]
    codes, scales, zeros = (constant(operands[slot]) for slot in (CODES, SCALES, ZERO_POINTS))
    computed = operands[ZERO_POINTS] is not None and zeros is None
    if codes is None or scales is None or computed or operands[ORDER] is not None or bits not in BITS or size < 1:
        return None
    blocks = -(-inputs // size)
    return _Blocks(codes, exact(scales).reshape(outputs, blocks), zeros, bits, inputs).numpy()


def _stored(context: Context, node: ir.Node, slot: int, role: str) -> ir.TensorProtocol:
    found = context.constants.find(data(node, slot))
    if isinstance(found, str):
        raise NotLifted(CONSTANT, f"{role} of {context.label(node)} is not constant: {found}")
    return found


def _zero_points(context: Context, node: ir.Node, outputs: int, blocks: int, bits: int) -> ir.TensorProtocol | None:
    """One for each block: packed as the codes are, each output's in whole bytes, or numbers of the scales' type."""
    if len(node.inputs) <= ZERO_POINTS or node.inputs[ZERO_POINTS] is None:
        return None
    found = _stored(context, node, ZERO_POINTS, "the zero point")
    packed = found.dtype == ir.DataType.UINT8
    if not packed and not found.dtype.is_floating_point():
        raise NotLifted(WHOLE_CODES, f"the zero points of {context.label(node)} are neither codes nor numbers")
    wanted = outputs * (-(-blocks * bits // 8) if packed else blocks)
    context.require(node, "the zero point", fits=found.size == wanted)
    return found


LIFTS = {("com.microsoft", "MatMulNBits"): _matmul_nbits}
