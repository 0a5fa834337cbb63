"""Nodes in topological order: the format demands it, and one real file in eight does without."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx
    from google.protobuf.internal.containers import (
        RepeatedCompositeFieldContainer as Nodes,
    )


def sort_nodes(proto: onnx.ModelProto) -> None:
    """Sort, in place, the nodes of every graph and function of ``proto`` that are out of order.

    The given order is kept wherever the values allow it, so that the result is the same each time. A graph with a
    cycle stays as it is, and so does all of a model in which a subgraph redefines an outer name: there, the order
    decides what the name means. Subgraphs are not nested deeper than protobuf parses them.
    """
    bodies = [graph.node for graph in (proto.graph, *proto.functions)]
    if not any(_redefines(nodes, frozenset()) for nodes in bodies):
        for nodes in bodies:
            _sort(nodes)


def names_read(node: onnx.NodeProto) -> set[str]:
    """The values that ``node`` needs: its inputs, and what its subgraphs take from the graphs around them."""
    return {name for name in node.input if name}.union(*map(_taken, _subgraphs(node)))


def _taken(graph: onnx.GraphProto) -> set[str]:
    read = {value.name for value in graph.output}.union(*map(names_read, graph.node))
    own = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    own |= {sparse.values.name for sparse in graph.sparse_initializer}
    return read - own - {name for node in graph.node for name in node.output}


def _subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _redefines(nodes: Nodes, outer: frozenset[str]) -> bool:
    """Whether a node in or below ``nodes`` defines one of the names ``outer``."""
    own = {name for node in nodes for name in node.output if name}
    graphs = [graph for node in nodes for graph in _subgraphs(node)]
    return not own.isdisjoint(outer) or any(_redefines(graph.node, outer | own) for graph in graphs)


def _sort(nodes: Nodes) -> None:
    for graph in [graph for node in nodes for graph in _subgraphs(node)]:
        _sort(graph.node)
    order = _order(nodes)
    ranks = [0] * len(order)
    for rank, position in enumerate(order):
        ranks[position] = rank
    # A key is asked for once for each node, in the order that they are in.
    keys = iter(ranks)
    nodes.sort(key=lambda _node: next(keys))


def _order(nodes: Nodes) -> list[int]:
    """Positions of ``nodes`` in topological order, the first of the ready ones first; as they are if there is none."""
    makers: dict[str, int] = {}
    for position, node in enumerate(nodes):
        for name in node.output:
            makers.setdefault(name, position)
    needed = [{makers[name] for name in names_read(node) if name in makers} for node in nodes]
    readers: list[list[int]] = [[] for _ in needed]
    for position, makers_of in enumerate(needed):
        for maker in makers_of:
            readers[maker].append(position)
    missing = list(map(len, needed))
    ready = [position for position, count in enumerate(missing) if not count]
    order = []
    while ready:
        order.append(position := heapq.heappop(ready))
        for reader in readers[position]:
            missing[reader] -= 1
            if not missing[reader]:
                heapq.heappush(ready, reader)
    return order if len(order) == len(missing) else list(range(len(missing)))
