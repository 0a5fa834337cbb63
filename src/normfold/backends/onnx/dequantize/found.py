"""What of a model is quantised, and how."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import chain

import onnx_ir as ir

from normfold.backends.onnx.dequantize.steps import operand, tensor_of
from normfold.records import Quantization, QuantizedPart

MICROSOFT = "com.microsoft"
PAIRS = frozenset({"QuantizeLinear", "DequantizeLinear"})
DYNAMIC = frozenset({"DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM"})
LINEAR = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
INTEGER = frozenset({"ConvInteger", "MatMulInteger", "MatMulIntegerToFloat", "QGemm", "NhwcMaxPool", "QAttention"})
BLOCKS = frozenset({"MatMulNBits", "GatherBlockQuantized", "MatMulBnb4"})
WEIGHTS = {
    "QLinearConv": 3,
    "QLinearMatMul": 3,
    "QGemm": 3,
    "ConvInteger": 1,
    "MatMulInteger": 1,
    "MatMulIntegerToFloat": 1,
    "DynamicQuantizeMatMul": 1,
}
"""Where each operator has its weight."""
MOVES = frozenset({"Transpose", "Reshape", "Unsqueeze", "Squeeze", "Flatten", "Identity"})


def quantization_of(model: ir.Model) -> Quantization | None:
    """What of ``model`` is quantised; None where nothing is."""
    counted = Counter(part for node in _nodes(model) if (part := _part(node)) is not None)
    floating = Counter(node.op_type for node in _nodes(model) if node.op_type in LINEAR and _part(node) is None)
    quantizers = any(node.op_type in PAIRS | DYNAMIC for node in _nodes(model))
    if not counted and not quantizers:
        return None
    parts = tuple(
        QuantizedPart(operator, form, weight, activation, count)
        for (operator, form, weight, activation), count in sorted(counted.items())
    )
    return Quantization(parts, dict(sorted(floating.items())))


def _nodes(model: ir.Model) -> Iterator[ir.Node]:
    yield from chain(model.graph.all_nodes(), *(function.all_nodes() for function in model.functions.values()))


def _part(node: ir.Node) -> tuple[str, str, str, str] | None:
    """Operator, form, type of the weight and of the activation; None where ``node`` computes with numbers."""
    if node.op_type in LINEAR and node.domain in ("", "ai.onnx"):
        return _between(node)
    if node.op_type in BLOCKS:
        size = f" in blocks of {node.attributes.get_int('block_size', 0)}"
        return node.op_type, "weights", f"int{node.attributes.get_int('bits', 4)}{size}", "float"
    if node.op_type in INTEGER | DYNAMIC - {"DynamicQuantizeLinear"} or node.op_type.startswith("QLinear"):
        weight = operand(node, WEIGHTS[node.op_type]) if node.op_type in WEIGHTS else None
        form = "dynamic" if _is_dynamic(node) else "qoperator"
        return node.op_type, form, _granularity(node, weight), _activation(node, form)
    return None


def _activation(node: ir.Node, form: str) -> str:
    """The type of the codes that an operator on codes reads: that of their zero point."""
    if node.op_type in ("NhwcMaxPool", "QAttention") or form == "dynamic":
        return "uint8"
    slot = {"QLinearConcat": 4, "QLinearWhere": 3, "MatMulIntegerToFloat": 4, "MatMulInteger": 2, "ConvInteger": 2}
    zero = tensor_of(operand(node, slot.get(node.op_type, 2)))
    return "uint8" if zero is None else zero.dtype.name.lower()


def _is_dynamic(node: ir.Node) -> bool:
    if node.op_type in DYNAMIC:
        return True
    producers = (value.producer() for value in node.inputs if value is not None)
    return any(one is not None and one.op_type == "DynamicQuantizeLinear" for one in producers)


def _between(node: ir.Node) -> tuple[str, str, str, str] | None:
    """Of a linear operation, what DequantizeLinear nodes make of codes for it."""
    made = [_dequantizer(operand(node, slot)) for slot in (0, 1)]
    if not any(made):
        return None
    first, second = made
    weight = "float"
    for one in (second, first):
        if one is not None and _is_stored(operand(one, 0)):
            weight = _dequantized(one)
            break
    activation = _type(operand(first, 0)) if first is not None and not _is_stored(operand(first, 0)) else "float"
    return node.op_type, "qdq" if activation != "float" else "weights", weight, activation


def _dequantizer(value: ir.Value | None) -> ir.Node | None:
    node = None if value is None else value.producer()
    while node is not None and node.op_type in MOVES:
        above = operand(node, 0)
        node = None if above is None else above.producer()
    return node if node is not None and node.op_type == "DequantizeLinear" else None


def _is_stored(value: ir.Value | None) -> bool:
    """Whether codes are constant, or computed from constants alone."""
    node = None if value is None else value.producer()
    if node is None:
        return tensor_of(value) is not None
    return node.op_type == "Constant" or all(_is_stored(above) for above in node.inputs if above is not None)


def _dequantized(node: ir.Node) -> str:
    scale, block = operand(node, 1), node.attributes.get_int("block_size", 0)
    tensor = tensor_of(scale)
    per = (
        f"in blocks of {block}" if block else "per channel" if tensor is not None and tensor.size > 1 else "per tensor"
    )
    return f"{_type(operand(node, 0))} {per}"


def _granularity(node: ir.Node, weight: ir.Value | None) -> str:
    if weight is None:
        return ""
    slot = {"QLinearConv": 4, "QLinearMatMul": 4, "QGemm": 4, "MatMulIntegerToFloat": 3, "DynamicQuantizeMatMul": 2}
    scale = tensor_of(operand(node, slot[node.op_type])) if node.op_type in slot else None
    per = "" if scale is None else " per channel" if scale.size > 1 else " per tensor"
    return f"{_type(weight)}{per}"


def _type(value: ir.Value | None) -> str:
    """The type of codes, in ONNX's words; that of what quantises them where no type is stated."""
    if value is None:
        return "unknown"
    if value.dtype is not None:
        return value.dtype.name.lower()
    tensor, node = tensor_of(value), value.producer()
    if tensor is not None:
        return tensor.dtype.name.lower()
    if node is None:
        return "unknown"
    if node.op_type == "QuantizeLinear":
        zero = tensor_of(operand(node, 2))
        return "uint8" if zero is None else zero.dtype.name.lower()
    return _type(operand(node, 0))
