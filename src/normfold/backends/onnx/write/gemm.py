"""How a MatMul comes to have a place for a bias: as a Gemm, which takes matrices only.

What flattens the product moves before it, ``Reshape(x W, [m, n]) = Reshape(x, [m, k]) W``, since the rows of a matrix
product do not see each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from normfold.backends.onnx.reading.shapes import Shapes
from normfold.core.algebra.moves import Dim

Write = Callable[[ir.Node, int, Sequence[int]], None]


def flatten_before(node: ir.Node, shapes: Shapes, write: Write, fresh: Callable[[str], str]) -> bool:
    """Make the data input of the MatMul ``node`` a matrix, if it is not one and if that costs no operation.

    That is so where one Flatten or Reshape to a matrix alone reads the elements of the product; it then reads the
    data input instead. Readers of the product's shape get that shape as a constant.
    """
    x, product = node.inputs[0], node.outputs[0]
    before, after = (None if x is None else shapes.of(x)), shapes.of(product)
    if x is None or before is None or after is None:
        return False
    if len(before) == 2:
        return True
    if not isinstance(before[-1], int):
        return False
    readers = [reader for reader, _ in product.uses() if reader.op_type != "Shape"]
    asking = [reader for reader, _ in product.uses() if reader.op_type == "Shape"]
    if len(readers) != 1 or product.is_graph_output() or not _flattens(readers[0], len(after), after[-1]):
        return False
    sizes = [dim if isinstance(dim, int) else -1 for dim in after]
    if not all(_can_state(reader, sizes) for reader in asking):
        return False
    if any(
        set(reader.attributes) & {"start", "end"} or reader.graph is not node.graph for reader in [*readers, *asking]
    ):
        return False
    flat = readers[0].outputs[0]
    shapes.tell(product, shapes.of(flat))
    shapes.tell(flat, (None, before[-1]))
    _swap(node, readers[0], write, before[-1], fresh)
    for reader in asking:
        _state(reader, sizes)
    return True


def _can_state(reader: ir.Node, sizes: Sequence[int]) -> bool:
    """Whether a constant can stand for the shape that ``reader`` gives: a Reshape works one unknown size out."""
    if -1 not in sizes:
        return True
    reshaping = all(user.op_type == "Reshape" and index == 1 for user, index in reader.outputs[0].uses())
    return reshaping and sizes.count(-1) == 1 and 0 not in sizes and not reader.outputs[0].is_graph_output()


def _flattens(reader: ir.Node, rank: int, width: Dim) -> bool:
    """Whether ``reader`` makes a matrix with rows of ``width`` of its input."""
    if reader.op_type == "Flatten":
        return reader.attributes.get_int("axis", 1) in (rank - 1, -1)
    target = _target(reader)
    return target is not None and len(target) == 2 and target[0] != 0 and target[1] == width


def _target(reader: ir.Node) -> list[int] | None:
    if reader.op_type != "Reshape" or len(reader.inputs) < 2 or reader.inputs[1] is None:
        return None
    tensor = ir.convenience.get_const_tensor(reader.inputs[1])
    return None if tensor is None else [int(k) for k in tensor.numpy()]


def _swap(node: ir.Node, reader: ir.Node, write: Write, width: Dim, fresh: Callable[[str], str]) -> None:
    """``x -> node -> reader -> y`` becomes ``x -> reader -> node -> y``."""
    x, product, flat = node.inputs[0], node.outputs[0], reader.outputs[0]
    graph = node.graph
    if graph is None:
        raise TypeError("the product stands in no graph")
    target = _target(reader)
    if target is not None and isinstance(width, int):
        write(reader, 1, [target[0], width])
    flat_name, product_name = flat.name, product.name
    reader.replace_input_with(0, x)
    flat.replace_all_uses_with(product, replace_graph_outputs=True)
    node.replace_input_with(0, flat)
    graph.remove(reader)
    graph.insert_before(node, reader)
    product.shape, product.type = flat.shape, flat.type
    flat.shape = None
    flat.name, product.name = fresh(f"{product_name}_input"), flat_name


def _state(reader: ir.Node, sizes: Sequence[int]) -> None:
    """Turn the Shape node ``reader`` into the constant that it gives."""
    reader.op_type = "Constant"
    reader.attributes.clear()
    reader.attributes["value"] = ir.AttrTensor("value", ir.tensor(np.asarray(sizes, dtype=np.int64)))
    reader.resize_inputs(0)
