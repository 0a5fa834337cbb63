"""DyT to a bare tanh: its scales and its shift go into what stands around it.

What it does:
    ``tanh(alpha * x) * weight + bias`` keeps the tanh. ``alpha`` goes into what makes ``x``, the scale and the shift
    into everything that reads the result.

Exact when:
    A linear operation, or several, make the input and nothing else reads it, and linear operations read the output.

Refused when:
    The input comes from an operation that cannot take a scale (``linear-producer``) or is read elsewhere
    (``single-use``), or a reader cannot take the scale and the shift (``linear-consumer``, ``every-tap``).

Source: Zhu et al., Transformers without Normalization (arXiv 2503.10622).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from normfold.core.algebra import Affine
from normfold.core.graph import Graph
from normfold.core.origins import Origin
from normfold.core.plan import Plan, Respell
from normfold.core.premises import CONVERTIBLE
from normfold.core.rules import BACKWARD, FORWARD, Target
from normfold.core.search import Search
from normfold.core.views import DynamicTanh, Node
from normfold.passes.convert.conversion import Asked, Conversion, Proposal
from normfold.records import Refusal


def _proposals(graph: Graph, norms: Sequence[Node], _asked: Asked) -> Iterator[Proposal]:
    for node in norms:
        view = graph.view(node)
        # One of several operations is affine maps around a tanh, which are folded as such.
        several = Refusal(CONVERTIBLE, f"{graph.label(node)} is one of several operations")
        yield _judged(graph, view) if isinstance(view, DynamicTanh) else Proposal((node,), refusals=(several,))


def _judged(graph: Graph, view: DynamicTanh) -> Proposal:
    search = Search(graph, undoes=False)
    bare = replace(view, alpha=1.0, tail=Affine.of())
    start = Plan((Respell(bare, "tanh"),), rules=("dyt_to_tanh",))
    targets = [
        Target(BACKWARD, view.inputs[0], Affine.of(np.asarray(view.alpha))),
        Target(FORWARD, view.outputs[0], view.tail),
    ]
    for plan in _ways(search, view, start, [target for target in targets if not target.map.identity]):
        unable = graph.unable(plan)
        if unable is None:
            return Proposal((view.node,), plan)
        search.refuse(unable)
    return Proposal((view.node,), refusals=(*view.refusals, *search.refusals))


def _ways(search: Search, view: DynamicTanh, plan: Plan, targets: Sequence[Target]) -> Iterator[Plan]:
    """``plan`` with the map of every target where it is absorbed."""
    if not targets:
        yield plan
        return
    for way in search.route(Origin(view, plan, targets[0])):
        if not way.inserts:
            yield from _ways(search, view, way, targets[1:])


CONVERSION = Conversion(name="dyt_to_tanh", proposals=_proposals)
