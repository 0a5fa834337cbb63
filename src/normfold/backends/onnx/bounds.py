"""How large the values of a model can become: proven from weights, or from what is known of its values.

Weights prove a bound where an operation bounds its result by itself (a norm, a sigmoid, a clip) and for as long as sums
of weights do not blow it up. What was seen of a value, or what a folded norm knew of it, bounds it with some headroom.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
import onnx_ir as ir

from normfold.backends.onnx.dequantize.steps import operand, tensor_of
from normfold.backends.onnx.graph import OnnxGraph

Bounds = Mapping[ir.Value, float]

ONE: Final = frozenset({"Sigmoid", "Softmax", "HardSigmoid", "Tanh", "Erf", "Sin", "Cos", "Softsign"})
"""Operators whose results lie between -1 and 1."""
NO_LARGER: Final = frozenset(
    {
        "Abs", "AveragePool", "BlackmanWindow", "Celu", "Concat", "DepthToSpace", "Dropout", "Expand", "Flatten",
        "Gather", "GatherElements", "GatherND", "Gelu", "GlobalAveragePool", "GlobalMaxPool", "HardSwish", "Identity",
        "LeakyRelu", "Max", "MaxPool", "Min", "Mish", "Neg", "Pad", "ReduceMax", "ReduceMean", "ReduceMin", "Relu",
        "Reshape", "Resize", "Selu", "Slice", "SpaceToDepth", "Split", "Squeeze", "Swish", "ThresholdedRelu", "Tile",
        "Transpose", "Unsqueeze", "Upsample", "Where",
    }
)  # fmt: skip
"""Operators whose results are no larger than the largest of what they read, or not by much (Selu: 1.76 times)."""
SELU: Final = 1.7582


def bounds(graph: OnnxGraph, known: Mapping[str, float]) -> Bounds:
    """The largest size of every value of the main graph, infinite where nothing bounds it.

    ``known`` has what bounds values by name besides: what was seen of them, or what norms knew.
    """
    found: dict[ir.Value, float] = {}
    for value in graph.model.graph.inputs:
        found[value] = known.get(value.name or "", math.inf)
    for node in graph.model.graph:
        sizes = [_size(found, value) for value in node.inputs]
        proven = _proven(graph, node, sizes)
        for output in node.outputs:
            found[output] = min(proven, known.get(output.name or "", math.inf))
    return found


def _size(found: Bounds, value: ir.Value | None) -> float:
    if value is None:
        return 0.0
    tensor = tensor_of(value)
    if tensor is None:
        return found.get(value, math.inf)
    if not (tensor.dtype.is_floating_point() or tensor.dtype.is_integer()) or not tensor.size:
        return 0.0
    return float(np.abs(tensor.numpy().astype(np.float64)).max())


def _proven(graph: OnnxGraph, node: ir.Node, sizes: list[float]) -> float:
    """The bound that the operation itself proves of what it makes."""
    if node.op_type in ONE:
        return 1.0
    if node.op_type in NO_LARGER:
        return max(sizes, default=math.inf) * (SELU if node.op_type == "Selu" else 1.0)
    special = SPECIAL.get(node.op_type)
    return math.inf if special is None else special(graph, node, sizes)


def _norm(graph: OnnxGraph, node: ir.Node, sizes: list[float]) -> float:
    """A normalised value is at most the root of how many there are."""
    dims = graph.shape(node.inputs[0]) if node.inputs and node.inputs[0] is not None else None
    axis = node.attributes.get_int("axis", -1)
    if dims is None:
        return math.inf
    wanted = dims[axis:] if node.op_type in ("LayerNormalization", "RMSNormalization") else dims[2:]
    whole = [dim for dim in wanted if isinstance(dim, int)]
    if len(whole) != len(wanted):
        return math.inf
    scale = sizes[1] if len(sizes) > 1 else 1.0
    return math.sqrt(math.prod(whole)) * scale + (sizes[2] if len(sizes) > 2 else 0.0)


def _clip(_: OnnxGraph, node: ir.Node, sizes: list[float]) -> float:
    low, high = (tensor_of(operand(node, slot)) for slot in (1, 2))
    limits = [math.inf if one is None else abs(float(one.numpy().reshape(-1)[0])) for one in (low, high)]
    if node.attributes.get_float("max", math.inf) != math.inf:
        limits = [abs(node.attributes.get_float(name, math.inf)) for name in ("min", "max")]
    return min(max(limits), max(sizes[0], *(limit for limit in (*limits, 0.0) if limit != math.inf)))


def _linear(_: OnnxGraph, node: ir.Node, sizes: list[float]) -> float:
    """Sums of weights by output, times the largest input, and the bias."""
    weight = tensor_of(operand(node, 1))
    if weight is None:
        return _product_of_values(node, sizes)
    values = np.abs(weight.numpy().astype(np.float64))
    if node.op_type == "Conv":
        total = values.reshape(len(values), -1).sum(axis=1)
    elif node.op_type == "ConvTranspose":
        total = values.sum(axis=0).reshape(-1, int(np.prod(values.shape[2:]))).sum(axis=1)
    elif node.op_type == "Gemm":
        total = values.sum(axis=1 if node.attributes.get_int("transB", 0) else 0)
        total = total * abs(node.attributes.get_float("alpha", 1.0))
    else:
        total = values.sum(axis=-2) if values.ndim > 1 else values.sum(axis=0, keepdims=True)
    bias = sizes[2] if len(sizes) > 2 else 0.0
    return float(total.max(initial=0.0)) * sizes[0] + bias


def _product_of_values(node: ir.Node, sizes: list[float]) -> float:
    """Rows that a Softmax makes sum up to one, so that a product with them is an average."""
    first = node.inputs[0]
    maker = None if first is None else first.producer()
    averages = maker is not None and maker.op_type == "Softmax" and maker.attributes.get_int("axis", -1) in (-1, 3)
    return sizes[1] if node.op_type == "MatMul" and averages and len(sizes) > 1 else math.inf


def _sum(_: OnnxGraph, __: ir.Node, sizes: list[float]) -> float:
    return sum(sizes)


def _times(_: OnnxGraph, __: ir.Node, sizes: list[float]) -> float:
    return math.prod(sizes) if 0.0 not in sizes else 0.0


def _quotient(_: OnnxGraph, node: ir.Node, sizes: list[float]) -> float:
    divisor = tensor_of(operand(node, 1))
    if divisor is None:
        return math.inf
    least = float(np.abs(divisor.numpy().astype(np.float64)).min())
    return sizes[0] / least if least else math.inf


def _root(_: OnnxGraph, __: ir.Node, sizes: list[float]) -> float:
    return max(1.0, math.sqrt(sizes[0]))


Special = Callable[[OnnxGraph, ir.Node, list[float]], float]
SPECIAL: Final[Mapping[str, Special]] = {
    "LayerNormalization": _norm,
    "RMSNormalization": _norm,
    "InstanceNormalization": _norm,
    "Clip": _clip,
    "Conv": _linear,
    "ConvTranspose": _linear,
    "Gemm": _linear,
    "MatMul": _linear,
    "Add": _sum,
    "Sub": _sum,
    "Sum": _sum,
    "Mul": _times,
    "Div": _quotient,
    "Sqrt": _root,
}
"""Operators with a bound of their own."""
