"""Standard operators whose results have the shapes of those of ONNX Runtime's own, which onnx does not know."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import onnx_ir as ir

MICROSOFT: Final = "com.microsoft"
StandIn = Callable[[ir.Node, int], ir.Node | None]


def _like(slot: int) -> StandIn:
    """As large as input ``slot``."""

    def identity(node: ir.Node, _: int) -> ir.Node | None:
        source = node.inputs[slot] if slot < len(node.inputs) else None
        return None if source is None else ir.Node("", "Identity", [source])

    return identity


def _embedded(node: ir.Node, _: int) -> ir.Node | None:
    """A row of the table of words for each index."""
    indices, table = (*node.inputs, None, None, None)[0:3:2]
    return None if indices is None or table is None else ir.Node("", "Gather", [table, indices])


def _half(node: ir.Node, opset: int) -> ir.Node | None:
    """Half as large along the last axis."""
    axis = ir.AttrInt64("axis", -1)
    halves = [axis, ir.AttrInt64("num_outputs", 2)] if opset >= 18 else [axis]
    source = node.inputs[0] if node.inputs else None
    return None if source is None else ir.Node("", "Split", [source], halves, num_outputs=2)


def _product(node: ir.Node, _: int) -> ir.Node | None:
    """A matrix product with a weight of the size that the node states, which no more than its dimensions is read of."""
    source, scales = (*node.inputs, None, None, None)[0:3:2]
    sizes = [node.attributes.get_int(name, 0) for name in ("K", "N")]
    if source is None or scales is None or scales.dtype is None or node.graph is None:
        return None
    shape, kind = ir.AttrInt64s("shape", sizes), ir.AttrInt64("dtype", scales.dtype)
    weight = ir.Node("", "RandomNormal", [], [shape, kind], name=f"{node.outputs[0].name}_weight")
    weight.outputs[0].name = weight.name
    node.graph.insert_before(node, weight)
    return ir.Node("", "MatMul", [source, weight.outputs[0]])


STAND_INS: Final[Mapping[tuple[str, str], Mapping[int, StandIn]]] = {
    **{(MICROSOFT, op): {0: _like(0)} for op in ("BiasAdd", "BiasGelu", "FastGelu", "Gelu", "GroupNorm", "QuickGelu")},
    **{(domain, "SimplifiedLayerNormalization"): {0: _like(0)} for domain in ("", MICROSOFT)},
    **{(MICROSOFT, f"Skip{op}LayerNormalization"): {0: _like(0), 3: _like(0)} for op in ("", "Simplified")},
    (MICROSOFT, "BiasSplitGelu"): {0: _half},
    (MICROSOFT, "EmbedLayerNormalization"): {0: _embedded, 2: _embedded},
    (MICROSOFT, "MatMulNBits"): {0: _product},
    (MICROSOFT, "SkipGroupNorm"): {0: _like(0), 1: _like(0)},
}
"""For outputs of each operator, what makes a value as large and of the same type."""


def stand_in(graph: ir.Graph, opset: int) -> None:
    """Let something that onnx knows make the outputs of operators of ``graph`` that it does not know."""
    for node in list(graph):
        domain = "" if node.domain == "ai.onnx" else node.domain
        replaced = False
        for index, make in STAND_INS.get((domain, node.op_type), {}).items():
            old = node.outputs[index] if index < len(node.outputs) else None
            new = None if old is None or not old.name else make(node, opset)
            if old is not None and new is not None:
                graph.insert_before(node, new)
                made = new.outputs[0]
                made.name, made.shape, made.type = old.name, old.shape, old.type
                # It stays where others of its node are read for which nothing stands in.
                old.name = f"{old.name} replaced"
                old.replace_all_uses_with(made, replace_graph_outputs=True)
                replaced = True
        if replaced and not any(output.uses() or output.is_graph_output() for output in node.outputs):
            graph.remove(node, safe=True)
