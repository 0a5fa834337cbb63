"""Nodes that compute a constant from constants, as far as NumPy comes to the same bits as any runtime does.

Moves of elements, integers and truth values are exact everywhere; of the arithmetic of floats only what IEEE 754
rounds in one way, in types that no runtime computes in another one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from normfold.backends.onnx.clean.editor import DEFAULT_DOMAIN
from normfold.backends.onnx.reading.constants import UNEVALUATED, Arguments
from normfold.backends.onnx.reading.expressions import EXPRESSIONS

Numbers = NDArray[np.generic]

LARGEST: Final = 1 << 26
"""Most elements that a constant is made of here; larger ones stay as they are computed."""
MOVES: Final = frozenset(
    {
        "Concat",
        "ConstantOfShape",
        "Expand",
        "Flatten",
        "Gather",
        "Identity",
        "Reshape",
        "Slice",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    }
)
"""Operators that only move elements, of any type."""
INTEGERS: Final = frozenset({ir.DataType.INT32, ir.DataType.INT64})
ROUNDED_ALIKE: Final = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE})
"""Types in which runtimes compute as they are; half ones are computed in float, and rounded when they like."""
ARITHMETIC: Final = frozenset({"Add", "Sub", "Mul", "Div", "Neg"})
CONVERTED: Final = INTEGERS | ROUNDED_ALIKE | {ir.DataType.BOOL}
TRUTHS: Final[dict[str, Callable[..., Numbers]]] = {
    "And": np.logical_and,
    "Equal": np.equal,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
    "Not": np.logical_not,
    "Or": np.logical_or,
    "Xor": np.logical_xor,
}


def computed(node: ir.Node, arguments: Arguments) -> ir.TensorProtocol | None:
    """What ``node`` makes of constants; None where it is not computed here."""
    tensors = [tensor for tensor in arguments if tensor is not None]
    outside = node.domain not in DEFAULT_DOMAIN or len(node.outputs) != 1 or len(tensors) != len(arguments)
    if outside or not tensors or any(tensor.dtype == ir.DataType.STRING for tensor in tensors):
        return None
    if _elements(node, tensors) > LARGEST:
        return None
    try:
        with np.errstate(all="ignore"):
            found = _result(node, [ir.Tensor(tensor.numpy(), dtype=tensor.dtype) for tensor in tensors])
    except UNEVALUATED:
        return None  # what does not fit its operator computes nothing
    return None if found is None else ir.Tensor(np.array(found.numpy(), order="C"), dtype=found.dtype)


def _elements(node: ir.Node, tensors: Sequence[ir.TensorProtocol]) -> int:
    """Most elements that the computation may take."""
    total = sum(tensor.size for tensor in tensors)
    return max(1, tensors[0].size) * max(1, tensors[1].size) if node.op_type == "Gather" and len(tensors) > 1 else total


def _result(node: ir.Node, tensors: Sequence[ir.Tensor[Any]]) -> ir.TensorProtocol | None:
    types = {tensor.dtype for tensor in tensors}
    if node.op_type in MOVES:
        return EXPRESSIONS[node.op_type](node, tensors)
    if node.op_type in ARITHMETIC and (types <= INTEGERS or types <= ROUNDED_ALIKE):
        return EXPRESSIONS[node.op_type](node, tensors)
    if node.op_type == "Cast":
        return _cast(tensors[0], ir.DataType(node.attributes.get_int("to")))
    if node.op_type in TRUTHS and types <= CONVERTED:
        return ir.Tensor(np.asarray(TRUTHS[node.op_type](*(tensor.numpy() for tensor in tensors))))
    if node.op_type == "Where" and len(tensors) == 3 and tensors[1].dtype == tensors[2].dtype:
        return ir.Tensor(np.where(*(tensor.numpy() for tensor in tensors)), dtype=tensors[1].dtype)
    if node.op_type in ("Min", "Max") and types <= INTEGERS:
        function = np.minimum if node.op_type == "Min" else np.maximum
        arrays = np.broadcast_arrays(*(tensor.numpy() for tensor in tensors))
        return ir.Tensor(function.reduce(arrays), dtype=tensors[0].dtype)
    return None


def _cast(tensor: ir.Tensor[Any], target: ir.DataType) -> ir.TensorProtocol | None:
    values = tensor.numpy()
    if tensor.dtype == target:
        return tensor
    if not {tensor.dtype, target} <= CONVERTED:
        return None
    if target in INTEGERS and tensor.dtype != ir.DataType.BOOL:
        limits = np.iinfo(target.numpy())
        # Outside the range of an integer type a conversion is what the processor makes of it.
        if not np.all((values >= limits.min) & (values < limits.max)):
            return None
    return ir.Tensor(values.astype(target.numpy()), dtype=target)
