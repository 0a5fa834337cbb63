"""Sends one map on its way, and says what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import onnx
import onnx_ir as ir

from normfold.backends.onnx import OnnxGraph
from normfold.core.origins import SHUFFLES, Origin
from normfold.core.plan import Plan
from normfold.core.search import Search
from normfold.core.views import View


def shuffle(view: View) -> Iterable[Origin]:
    """The permutation that ``view`` is."""
    return SHUFFLES.origins(view)


def sent(
    source: onnx.ModelProto, name: str, start: Callable[[View], Iterable[Origin]]
) -> tuple[OnnxGraph, Plan | None, set[str]]:
    """The graph of ``source``, the first plan for a map that starts at ``name``, and the premises that failed."""
    graph = OnnxGraph(ir.from_proto(source))
    node = next(node for node in graph.nodes() if graph.name(node) == name)
    search, plans = Search(graph), list[Plan]()
    for origin in start(graph.view(node)):
        plans += search.route(origin)
    return graph, (plans[0] if plans else None), {str(refusal.premise) for refusal in search.refusals}
