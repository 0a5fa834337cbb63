"""Tables that are read by index, in eight bits: most of a language model's file.

A row has a scale of its own, so that rare words with large entries cost the others nothing. The rows read are made
numbers again where they are read, which is a few hundred numbers of each.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import onnx_ir as ir

from normfold.backends.onnx.dequantize.steps import tensor_of
from normfold.backends.onnx.reading.names import Names
from normfold.backends.onnx.write.commit import add_constant, sweep

SMALLEST: Final = 1 << 16
"""Elements of a table from which on it is worth it."""
LARGEST: Final = 127
"""Greatest code."""


def narrow_tables(model: ir.Model) -> int:
    """Store the large tables of the main graph as codes, in place; how many there were."""
    names, found = Names(model), list(_tables(model))
    for table, tensor, readers in found:
        values = tensor.numpy().astype(np.float64)
        scale = np.maximum(np.abs(values).max(axis=1, keepdims=True) / LARGEST, np.finfo(np.float32).tiny)
        held = scale.astype(np.float32)
        codes = np.clip(np.rint(values / held), -LARGEST, LARGEST).astype(np.int8)
        stored = add_constant(model, model.graph, ir.Tensor(codes), names.fresh(f"{table.name}_codes"))
        scales = add_constant(model, model.graph, ir.Tensor(held), names.fresh(f"{table.name}_scales"))
        for node in readers:
            _read_codes(model, node, stored, scales, names)
        sweep(table)
    return len(found)


def _tables(model: ir.Model) -> Iterator[tuple[ir.Value, ir.TensorProtocol, list[ir.Node]]]:
    """Tables of float32 that nothing reads but by index, and what reads them."""
    for value in list(model.graph.initializers.values()):
        tensor, readers = tensor_of(value), [node for node, _ in value.uses()]
        if tensor is None or tensor.dtype != ir.DataType.FLOAT or len(tensor.shape) != 2 or tensor.size < SMALLEST:
            continue
        by_index = all(
            node.op_type == "Gather" and node.graph is model.graph and slot == 0 and _rows(node)
            for node, slot in value.uses()
        )
        if readers and by_index and not value.is_graph_output():
            yield value, tensor, readers


def _rows(node: ir.Node) -> bool:
    return node.attributes.get_int("axis", 0) in (0, -2)


def _read_codes(model: ir.Model, node: ir.Node, codes: ir.Value, scales: ir.Value, names: Names) -> None:
    """Let ``node`` and what follows it make the rows of ``codes`` and ``scales`` the numbers of one value."""
    output, index = node.outputs[0], node.inputs[1]
    rows = ir.node("Gather", [codes, index], {"axis": 0}, name=names.fresh(f"{node.name}_codes"))
    steps = ir.node("Gather", [scales, index], {"axis": 0}, name=names.fresh(f"{node.name}_scales"))
    cast = ir.node("Cast", [rows.outputs[0]], {"to": int(ir.DataType.FLOAT)}, name=names.fresh(f"{node.name}_numbers"))
    product = ir.node("Mul", [cast.outputs[0], steps.outputs[0]], name=names.fresh(f"{node.name}_scaled"))
    for made in (rows, steps, cast, product):
        made.outputs[0].name = names.fresh(f"{output.name}_{made.op_type}")
        model.graph.insert_before(node, made)
    last = product.outputs[0]
    last.shape, last.type = output.shape, output.type
    if output.is_graph_output():
        last.name, output.name = output.name, None
    output.replace_all_uses_with(last, replace_graph_outputs=True)
    model.graph.remove(node, safe=True)
