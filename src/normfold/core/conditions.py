"""Norms whose scale or shift is computed from another input: AdaIN, FiLM, AdaLN, conditional BatchNorm.

Such a norm is followed by a product with a computed value, as in ``norm(x) * (1 + scale(c)) + shift(c)``. A gate,
``norm(x) * silu(f(x))``, looks alike: what tells them apart is that the factor of a conditional norm depends on other
inputs of the model than what is normalised, and not on what the norm makes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from normfold.core.graph import Graph
from normfold.core.premises import UNCONDITIONED
from normfold.core.views import AffineOp, Moving, Node, Product, Value
from normfold.records import Refusal

STEPS: Final = 16
"""Most operations between a norm and its factor; there are hardly more than a reshape and a constant."""
SHOWN: Final = 3
"""Most inputs that are named."""


def conditioned(graph: Graph, nodes: Sequence[Node]) -> Refusal | None:
    """What the last of ``nodes``, a norm, is multiplied by, where that is computed from another input; else None."""
    node = nodes[-1]
    found = _product(graph, node)
    if found is None:
        return None
    product, port = found
    sources, met = _sources(graph, product.inputs[1 - port : 2 - port])
    own, _ = _sources(graph, graph.view(nodes[0]).inputs)
    if not sources or node in met or sources == own:
        return None
    named = ", ".join(graph.label(value) for value in list(sources)[:SHOWN])
    because = (
        f"{graph.label(product.node)} scales what {graph.label(node)} makes by what is computed from {named}, as in "
        "AdaIN, FiLM and AdaLN"
    )
    return Refusal(UNCONDITIONED, because)


def _product(graph: Graph, node: Node) -> tuple[Product, int] | None:
    """The product that reads what ``node`` makes, past constants and moves, and at which input, if there is one."""
    value = graph.view(node).outputs[0]
    for _ in range(STEPS):
        readers = graph.consumers(value)
        if len(readers) != 1:
            return None
        view = graph.view(readers[0][0])
        if isinstance(view, Product):
            return (view, view.inputs.index(value)) if len(view.inputs) == 2 and value in view.inputs else None
        if not isinstance(view, AffineOp | Moving) or len(view.outputs) != 1:
            return None
        value = view.outputs[0]
    return None


def _sources(graph: Graph, values: Sequence[Value]) -> tuple[dict[Value, None], set[Node]]:
    """The inputs of the model whose elements ``values`` are computed from, and the operations on the way."""
    named = graph.origins()
    inputs: dict[Value, None] = {}
    met: set[Node] = set()
    waiting = list(values)
    while waiting:
        value = waiting.pop()
        node = graph.producer(value)
        if node is None and graph.value_name(value) in named:
            inputs[value] = None
        elif node is not None and node not in met:
            met.add(node)
            waiting += [one for one in graph.view(node).inputs if _reads(graph, node, one)]
    return inputs, met


def _reads(graph: Graph, node: Node, value: Value) -> bool:
    """Whether ``node`` reads elements of ``value``, and not its shape alone."""
    return any(reader is node for reader, _ in graph.consumers(value))
