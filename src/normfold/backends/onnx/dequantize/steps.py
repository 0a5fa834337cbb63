"""Scales and zero points, and the numbers that codes stand for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from normfold.backends.onnx.reading.constants import code_limits
from normfold.errors import ModelFileError

CODE_TYPES = frozenset(
    {
        ir.DataType.INT4,
        ir.DataType.UINT4,
        ir.DataType.INT8,
        ir.DataType.UINT8,
        ir.DataType.INT16,
        ir.DataType.UINT16,
        ir.DataType.INT32,
    }
)
"""What numbers are quantised to."""


@dataclass(frozen=True, eq=False)
class Steps:
    """``value = scale * (code - zero)``; ``axis`` is that of the scales where there is more than one."""

    scale: NDArray[Any]
    zero: NDArray[Any]
    dtype: ir.DataType
    """Of the codes."""
    axis: int = 1
    block: int = 0
    """Codes that share a scale along the axis; 0: all of one index."""

    @property
    def single(self) -> bool:
        """Whether all codes have one scale."""
        return self.scale.size == 1

    @property
    def low(self) -> float:
        """The least number that there is a code for."""
        return float((self.scale.reshape(-1) * (code_limits(self.dtype)[0] - self._whole())).min())

    @property
    def high(self) -> float:
        """The greatest number that there is a code for."""
        return float((self.scale.reshape(-1) * (code_limits(self.dtype)[1] - self._whole())).max())

    @property
    def starts_at_zero(self) -> bool:
        """Whether the first code stands for zero, so that whatever is below zero is cut off."""
        return bool((self._whole() == code_limits(self.dtype)[0]).all())

    def _whole(self) -> NDArray[np.float64]:
        return np.broadcast_to(self.zero.reshape(-1), (self.scale.size,)).astype(np.float64)

    def numbers(self, codes: ir.TensorProtocol) -> ir.Tensor[Any]:
        """What ``codes`` stand for, in the type of the scales, each rounded once."""
        whole = codes.numpy().astype(np.float64)
        if self.single:
            scale, zero = self.scale.reshape(()), self.zero.reshape(-1)[:1].reshape(())
        else:
            scale, zero = (self._spread(array, whole.shape) for array in (self.scale, self.zero))
        exact = (whole - zero.astype(np.float64)) * scale.astype(np.float64)
        return ir.Tensor(exact.astype(self.scale.dtype))

    def _spread(self, array: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        """``array`` so that it goes with codes of ``shape``."""
        axis = self.axis % max(len(shape), 1)
        if self.block:
            return np.repeat(array, self.block, axis=axis)[tuple(map(slice, shape))]
        if array.size == 1:
            return array.reshape(())
        return array.reshape([-1 if index == axis else 1 for index in range(len(shape))])


def tensor_of(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The constant ``value``; None where it is none, or a caller may set it."""
    if value is None or value.is_graph_input():
        return None
    return ir.convenience.get_const_tensor(value)


def steps_of(node: ir.Node, scale: int, zero: int | None = None, *, axis: int = 1, block: int = 0) -> Steps | None:
    """The steps that ``node`` reads at two of its inputs; None where they are computed.

    Without a zero point there is none: it is zero in unsigned bytes.
    """
    step = tensor_of(operand(node, scale))
    offset = operand(node, zero) if zero is not None else None
    first = tensor_of(offset)
    if step is None or (offset is not None and first is None):
        return None
    kind = ir.DataType.UINT8 if first is None else first.dtype
    if kind not in CODE_TYPES:
        raise refused(node, f"it has codes of type {kind.name.lower()}")
    zeros = np.zeros((), np.int64) if first is None else first.numpy().astype(np.int64)
    return Steps(step.numpy(), zeros, kind, axis, block)


def operand(node: ir.Node, slot: int) -> ir.Value | None:
    """The input of ``node`` at ``slot``, where there is one."""
    return node.inputs[slot] if slot < len(node.inputs) else None


def refused(node: ir.Node, because: str) -> ModelFileError:
    """Why ``node`` cannot become floating point."""
    message = f"{node.op_type} {node.name or node.outputs[0].name!r} cannot be made floating point again: {because}."
    return ModelFileError("cannot-dequantize", message, "Go back to the model before it was quantised.")
