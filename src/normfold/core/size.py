"""How large a model is, on any backend: what folding changes besides the norms."""

from __future__ import annotations

from math import prod

from normfold.core.algebra.moves import Dim
from normfold.core.graph import Graph
from normfold.core.views import Linear, unquantized
from normfold.records import Size


def size(graph: Graph, parameters: int, nbytes: int) -> Size:
    """The size of ``graph``, which stores ``parameters`` numbers in ``nbytes`` bytes."""
    return Size(len(graph.nodes()), parameters, nbytes, _macs(graph))


def _macs(graph: Graph) -> int | None:
    """Multiply-accumulates of all operations with constant weights, for one sample where the batch is open."""
    total = 0
    for node in graph.nodes():
        view = graph.view(node)
        linear = unquantized(view)
        if isinstance(linear, Linear):
            positions = _positions(graph, linear)
            if positions is None:
                return None
            total += positions * prod(linear.weight.split)
    return total


def _positions(graph: Graph, view: Linear) -> int | None:
    """How many times the whole weight is used."""
    outputs = _elements(graph.shape(view.outputs[0]))
    inputs = _elements(graph.shape(view.inputs[0]))
    if outputs is None or inputs is None:
        return None
    per_output = outputs // max(1, view.weight.out_channels)
    # A transposed convolution, which has no window, uses its weight once for each place of its input.
    return per_output if view.window is not None else min(per_output, inputs // max(1, view.weight.in_channels))


def _elements(dims: tuple[Dim, ...] | None) -> int | None:
    if dims is None:
        return None
    batch, rest = dims[:1], dims[1:]
    sizes = [size if isinstance(size, int) else 1 for size in batch] + [size for size in rest if isinstance(size, int)]
    return prod(sizes) if len(sizes) == len(dims) else None
