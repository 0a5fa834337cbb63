"""Sends one map on its way, and says what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import onnx
import onnx_ir as ir

from folding import make_feeds, run
from normfold.backends.onnx import OnnxGraph
from normfold.core.algebra import Centring
from normfold.core.origins import SHUFFLES, Origin
from normfold.core.plan import Plan
from normfold.core.rules import BACKWARD, Target
from normfold.core.search import Search
from normfold.core.views import View
from normfold.runtime import CHECKER

Start = Callable[[View], Iterable[Origin]]
WIDTH = 4
"""Channels of what is centred."""


def shuffle(view: View) -> Iterable[Origin]:
    """The permutation that ``view`` is."""
    return SHUFFLES.origins(view)


def sent(source: onnx.ModelProto, name: str, start: Start) -> tuple[OnnxGraph, Plan | None, set[str]]:
    """The graph of ``source``, the first plan for a map that starts at ``name``, and the premises that failed."""
    graph = OnnxGraph(ir.from_proto(source), CHECKER.infer)
    node = next(node for node in graph.nodes() if graph.name(node) == name)
    search, plans = Search(graph), list[Plan]()
    for origin in start(graph.view(node)):
        plans += search.route(origin)
    return graph, (plans[0] if plans else None), {str(refusal.premise) for refusal in search.refusals}


def centring(axis: int = -1) -> Start:
    """Centres what an operation reads, along ``axis``; the operation itself stays as it is."""

    def start(view: View) -> Iterable[Origin]:
        yield Origin(view, Plan(), Target(BACKWARD, view.inputs[0], Centring(axis, WIDTH)))

    return start


def proven_centring(source: onnx.ModelProto, axis: int = -1) -> Plan:
    """The plan that centres what ``last``, a Neg that makes ``y``, reads; carried out, and compared with the source."""
    graph, plan, failed = sent(source, "last", centring(axis))
    assert plan is not None, failed
    graph.commit(plan)
    feeds = make_feeds(source)
    before, after = run(source, feeds)["y"], run(ir.to_proto(graph.model), feeds)["y"]
    np.testing.assert_allclose(after, before - before.mean(axis=axis, keepdims=True), rtol=1e-4, atol=1e-5)
    return plan


def refused_centring(source: onnx.ModelProto, axis: int = -1) -> set[str]:
    """The premises for want of which what ``last`` reads cannot be centred."""
    _, plan, failed = sent(source, "last", centring(axis))
    assert plan is None
    return failed
