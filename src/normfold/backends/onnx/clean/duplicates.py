"""Constants that are stored twice, and nodes that compute what another one has computed."""

from __future__ import annotations

from typing import Final

import numpy as np
import onnx_ir as ir
from onnx_ir import serde

from normfold.backends.onnx.clean.editor import DEFAULT_DOMAIN, Editor

SMALL: Final = 1 << 12
"""Bytes of a constant up to which its like is looked for: shapes, axes, scalars, vectors of channels."""
UNREPEATABLE: Final = frozenset(
    {
        "Bernoulli",
        "Dropout",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
    }
)
"""Operators that may answer differently each time."""
NESTED: Final = frozenset({ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS})


def merge_constants(editor: Editor, graph: ir.Graph) -> bool:
    """Let the readers of small constants that are equal, bit for bit, read the first of them."""
    first: dict[tuple[object, ...], ir.Value] = {}
    merged = False
    for value in list(graph.initializers.values()):
        tensor = value.const_value
        if tensor is None or value.is_graph_input() or value.is_graph_output() or tensor.nbytes > SMALL:
            continue
        if tensor.dtype == ir.DataType.STRING:
            continue
        key = (tensor.dtype, tuple(tensor.shape.numpy()), np.ascontiguousarray(tensor.numpy()).tobytes())
        same = first.setdefault(key, value)
        if same is not value and value.name and same.name:
            editor.moved[value.name] = same.name
            value.replace_all_uses_with(same)
            del graph.initializers[value.name]
            merged = True
    return merged


def merge_nodes(editor: Editor, graph: ir.Graph, functions: frozenset[ir.OperatorIdentifier]) -> bool:
    """Let the readers of what is computed a second time read what was computed first."""
    first: dict[tuple[object, ...], ir.Node] = {}
    merged = False
    for node in graph:
        key = None if node.op_identifier() in functions else _key(node)
        if key is None:
            continue
        same = first.setdefault(key, node)
        merged |= same is not node and _merge(editor, graph, node, same)
    return merged


def _key(node: ir.Node) -> tuple[object, ...] | None:
    """What two nodes have in common that come to the same; None where no other node does."""
    if node.domain not in DEFAULT_DOMAIN or node.op_type in UNREPEATABLE or not node.inputs:
        return None
    attributes = []
    for name in sorted(node.attributes):
        attribute = node.attributes[name]
        if attribute.is_ref() or attribute.type in NESTED:
            return None
        # As stored, so that 0.0 and -0.0 differ.
        attributes.append(serde.serialize_attribute(attribute).SerializeToString(deterministic=True))
    return (node.op_type, len(node.outputs), tuple(map(id, node.inputs)), tuple(attributes))


def _merge(editor: Editor, graph: ir.Graph, node: ir.Node, same: ir.Node) -> bool:
    pairs = [(old, new) for old, new in zip(node.outputs, same.outputs, strict=True) if old.uses() or old.name]
    needed = [(old, new) for old, new in pairs if old.uses() or old.is_graph_output()]
    # An output of the graph has a name and a declaration of its own; what a node leaves out it need not compute.
    if any(old.is_graph_output() or not new.name for old, new in needed):
        return False
    for old, new in needed:
        if old.name and new.name:
            editor.moved[old.name] = new.name
        old.replace_all_uses_with(new)
    graph.remove(node, safe=True)
    return True
