"""Products with a constant matrix as MatMulNBits: four bits a weight, a scale and a zero point for each block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx_ir as ir

from normfold.backends.onnx.dequantize.steps import operand, tensor_of
from normfold.backends.onnx.reading.names import Names
from normfold.backends.onnx.write.commit import add_constant, sweep
from normfold.core.algebra.affine import Array
from normfold.core.integers.blocks import coded

MICROSOFT: Final = "com.microsoft"
SMALLEST: Final = 1 << 12
"""Elements of a matrix from which on it is worth it."""
PLAIN: Final = {"alpha": 1.0, "beta": 1.0, "transA": 0}
"""Attributes of a Gemm that is a product and a bias."""


@dataclass(frozen=True, slots=True)
class Constant:
    """A product with a constant matrix ``[inputs, outputs]``."""

    node: ir.Node
    weight: ir.Value
    data: str
    """What is multiplied."""
    bias: ir.Value | None

    @property
    def matrix(self) -> Array:
        """The weight as ``[outputs, inputs]``, in float64."""
        tensor = tensor_of(self.weight)
        if tensor is None:
            raise TypeError("not a constant")
        values = tensor.numpy().astype(np.float64)
        transposed = self.node.op_type == "Gemm" and self.node.attributes.get_int("transB", 0) == 1
        return values if transposed else values.T


def products(model: ir.Model) -> Iterator[Constant]:
    """Those of the main graph that are in float32 and large enough."""
    for node in model.graph:
        weight = operand(node, 1)
        tensor, data = tensor_of(weight), operand(node, 0)
        if node.domain not in ("", "ai.onnx") or node.op_type not in ("MatMul", "Gemm") or weight is None:
            continue
        if tensor is None or data is None or tensor.dtype != ir.DataType.FLOAT or len(tensor.shape) != 2:
            continue
        bias = operand(node, 2)
        if tensor.size < SMALLEST or not _is_plain(node) or (bias is not None and not _is_vector(bias)):
            continue
        yield Constant(node, weight, data.name or "", bias)


def _is_plain(node: ir.Node) -> bool:
    if node.op_type == "MatMul":
        return True
    return all(node.attributes.get_float(name, 1.0) == 1.0 for name in ("alpha", "beta")) and (
        node.attributes.get_int("transA", 0) == 0
    )


def _is_vector(bias: ir.Value) -> bool:
    tensor = tensor_of(bias)
    return tensor is not None and len(tensor.shape) == 1


def write_blocks(model: ir.Model, size: int, level: int, importance: Mapping[str, Array]) -> list[str]:
    """Let the products of ``model`` read blocks of ``size`` codes, in place; the names of their nodes.

    ``level`` is the accuracy level that ONNX Runtime is asked for: at 4 it rounds the inputs to eight bits. Errors of
    weights count by ``importance``, the mean squares of the inputs by name, where that is known.
    """
    names, found = Names(model), list(products(model))
    for one in found:
        _write(model, one, size, level, importance.get(one.data), names)
    if found:
        model.opset_imports.setdefault(MICROSOFT, 1)
    return [str(one.node.name or one.node.outputs[0].name) for one in found]


def _write(model: ir.Model, one: Constant, size: int, level: int, importance: Array | None, names: Names) -> None:
    node, matrix = one.node, one.matrix
    outputs, inputs = matrix.shape
    codes = coded(matrix, size, importance if importance is not None and len(importance) == inputs else None)
    name = one.weight.name
    stored = [
        add_constant(model, model.graph, tensor, names.fresh(f"{name}_{kind}"))
        for kind, tensor in (
            ("codes", ir.Tensor(codes.packed())),
            ("scales", ir.Tensor(codes.scales.reshape(-1))),
            ("zeros", ir.Tensor(codes.packed_zeros())),
        )
    ]
    attributes = {"K": inputs, "N": outputs, "bits": 4, "block_size": size, "accuracy_level": level}
    operands: list[ir.Value | None] = [node.inputs[0], *stored]
    if one.bias is not None:
        operands += [None, one.bias]
    made = ir.node(
        "MatMulNBits", operands, attributes, domain=MICROSOFT, name=names.fresh(f"{node.name or name}_blocks")
    )
    output, result = node.outputs[0], made.outputs[0]
    result.name, result.shape, result.type = names.fresh(f"{output.name}_blocks"), output.shape, output.type
    model.graph.insert_before(node, made)
    if output.is_graph_output():
        result.name, output.name = output.name, None
    output.replace_all_uses_with(result, replace_graph_outputs=True)
    model.graph.remove(node, safe=True)
    sweep(one.weight)
