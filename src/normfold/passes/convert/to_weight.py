"""BatchNorm to weight norm: it is folded into what makes its input, whose weight is a length and a direction then.

What it does:
    Norms with stored statistics are affine maps by channel, which the linear operations before them absorb. Each of
    those becomes one with ``torch.nn.utils.parametrizations.weight_norm``: the weight of an output channel is
    ``g * v / ||v||``, with ``v`` the folded weight and ``g`` its length.

Exact if:
    No output channel of the folded weight is zero.

Refused when:
    An output channel is zero, as where the scale of the norm is, since ``0 / 0`` is NaN there (``nonzero-rows``); the
    norm's input comes from an operation that cannot take it (``linear-producer``) or is read elsewhere
    (``single-use``); or the model is a file, which stores the computed weight: no operator normalises one
    (``meaningful``).

Source: Salimans and Kingma, Weight Normalization (arXiv 1602.07868).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from normfold.core.graph import Graph
from normfold.core.origins import Origin
from normfold.core.plan import Bypass, Plan, Respell
from normfold.core.premises import LINEAR_PRODUCER
from normfold.core.rules import BACKWARD, Target
from normfold.core.search import Search
from normfold.core.views import AffineOp, Linear, Node
from normfold.passes.convert.conversion import Asked, Conversion, Proposal
from normfold.records import Refusal


def _proposals(graph: Graph, norms: Sequence[Node], _asked: Asked) -> Iterator[Proposal]:
    for node in norms:
        view = graph.view(node)
        if not isinstance(view, AffineOp):
            raise TypeError(f"not an affine map: {graph.label(node)}")
        yield _judged(graph, view)


def _judged(graph: Graph, view: AffineOp) -> Proposal:
    search, source = Search(graph), view.inputs[0]
    start = Plan((Bypass(view.node, source, same=True),), rules=("to_weight",))
    for way in search.route(Origin(view, start, Target(BACKWARD, source, view.affine))):
        answer = _normalised(graph, way)
        refusal = answer if isinstance(answer, Refusal) else graph.unable(answer)
        if isinstance(answer, Plan) and refusal is None:
            return Proposal((view.node,), answer)
        if refusal is not None:
            search.refuse(refusal)
    return Proposal((view.node,), refusals=tuple(dict.fromkeys((*view.refusals, *search.refusals))))


def _normalised(graph: Graph, way: Plan) -> Plan | Refusal:
    """``way`` with a weight norm for everything that absorbs a map in it."""
    for node in way.into:
        view = way.view(node)
        if way.inserts or not isinstance(view, Linear):
            because = f"{graph.label(node)}, which would take the norm, has no weight that could be normalised"
            return Refusal(LINEAR_PRODUCER, because)
        others = tuple(edit for edit in way.edits if getattr(edit, "view", None) is not view)
        way = replace(way, edits=(*others, Respell(view, "weight")))
    return way


CONVERSION = Conversion(name="to_weight", proposals=_proposals)
