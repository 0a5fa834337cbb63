"""What a model stores."""

from __future__ import annotations

import onnx_ir as ir


def stored(model: ir.Model) -> tuple[int, int]:
    """How many numbers the initializers and the constants of ``model`` are, and the bytes that they take."""
    tensors = [value.const_value for graph in model.graphs() for value in graph.initializers.values()]
    for graph in (*model.graphs(), *(function.graph for function in model.functions.values())):
        tensors += [node.attributes["value"].as_tensor() for node in graph if _is_constant(node)]
    held = [tensor for tensor in tensors if tensor is not None]
    return sum(tensor.size for tensor in held), sum(tensor.nbytes for tensor in held)


def _is_constant(node: ir.Node) -> bool:
    return node.op_type == "Constant" and "value" in node.attributes
