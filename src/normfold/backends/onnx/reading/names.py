"""The names that a model uses."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import onnx_ir as ir


def values_of(model: ir.Model) -> Iterator[ir.Value]:
    """Every value of the graph and of its subgraphs."""
    for graph in model.graphs():
        yield from graph.inputs
        yield from graph.initializers.values()
        for node in graph:
            yield from node.outputs


class Names:
    """The names of a model's values and nodes."""

    def __init__(self, model: ir.Model) -> None:
        functions = (function.all_nodes() for function in model.functions.values())
        nodes = chain(model.graph.all_nodes(), chain.from_iterable(functions))
        self._taken = {value.name for value in values_of(model)} | {node.name for node in nodes}

    def fresh(self, wanted: str) -> str:
        """``wanted``, or the first numbered variant that nothing has; it is taken from then on."""
        name, count = wanted, 1
        while name in self._taken:
            count += 1
            name = f"{wanted}_{count}"
        self._taken.add(name)
        return name
