"""The graphs in a model: its own, and those in attributes of nodes."""

from __future__ import annotations

from collections.abc import Iterator

import onnx


def graphs(proto: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    """The main graph, and every graph below it and below the functions."""
    pending = [proto.graph]
    nodes = [node for function in proto.functions for node in function.node]
    while pending or nodes:
        if pending:
            graph = pending.pop()
            nodes.extend(graph.node)
            yield graph
        for node in nodes:
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    pending.append(attribute.g)
                pending.extend(attribute.graphs)
        nodes = []
