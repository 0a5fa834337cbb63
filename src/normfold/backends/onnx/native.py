"""What rules name, as what it is here: their nodes and values are onnx_ir's."""

from __future__ import annotations

import onnx_ir as ir

from normfold.core.views import Node, Value


def native_node(node: Node) -> ir.Node:
    """``node`` as it is."""
    if not isinstance(node, ir.Node):
        raise TypeError(f"not an ONNX node: {node!r}")
    return node


def native_value(value: Value) -> ir.Value:
    """``value`` as it is."""
    if not isinstance(value, ir.Value):
        raise TypeError(f"not an ONNX value: {value!r}")
    return value
