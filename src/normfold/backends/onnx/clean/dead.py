"""What nobody reads: nodes whose outputs go nowhere, and constants."""

from __future__ import annotations

from itertools import chain

import onnx_ir as ir


def remove_dead(graph: ir.Graph) -> bool:
    """Take the nodes and initializers out of ``graph`` that neither a node nor an output needs."""
    found = False
    for node in list(reversed(graph)):
        if not any(output.uses() or output.is_graph_output() for output in node.outputs):
            _unhook(node)
            graph.remove(node, safe=True)
            found = True
    for value in list(graph.initializers.values()):
        if not (value.uses() or value.is_graph_output() or value.is_graph_input()):
            del graph.initializers[str(value.name)]
            found = True
    return found


def _unhook(node: ir.Node) -> None:
    """Let what stands in the subgraphs of ``node`` read nothing any more: outer values would seem to be needed."""
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            graphs = [attribute.as_graph()]
        elif attribute.type == ir.AttributeType.GRAPHS:
            graphs = list(attribute.as_graphs())
        else:
            continue
        for inner in chain.from_iterable(graph.all_nodes() for graph in graphs):
            for slot in range(len(inner.inputs)):
                inner.replace_input_with(slot, None)
