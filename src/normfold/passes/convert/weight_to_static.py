"""Weight norm and weight standardisation to a stored weight: it is computed once.

What it does:
    The weight that an operation computes anew at each call from what is stored (weight norm, spectral norm, weight
    standardisation) is computed in float64, cast once, and stored.

Exact when:
    What it is computed from is stored, and nothing else reads that.

Refused when:
    The module does more than compute a weight (``needs-structure``), or is called with other weights elsewhere
    (``called-once``).

Source: Salimans and Kingma, Weight Normalization (arXiv 1602.07868).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from normfold.core.graph import Graph
from normfold.core.plan import Plan
from normfold.core.rules.bake_normalised_weight import RULE
from normfold.core.views import Linear, Node
from normfold.passes.convert.conversion import Asked, Conversion, Proposal


def _proposals(graph: Graph, norms: Sequence[Node], _asked: Asked) -> Iterator[Proposal]:
    for node in norms:
        yield baked(graph, node)


def baked(graph: Graph, node: Node) -> Proposal:
    """The plan that stores the weight of ``node`` as it is computed, or why there is none."""
    view = graph.view(node)
    if not isinstance(view, Linear):
        raise TypeError(f"not a linear operation: {graph.label(node)}")
    if not graph.normalised_by(node):  # with that of another call of the same module
        return Proposal((node,), Plan(into=(node,), rules=(RULE.name,)))
    _, answer = next(iter(RULE.answers(graph, view)))
    refusal = graph.unable(answer) if isinstance(answer, Plan) else answer
    if isinstance(answer, Plan) and refusal is None:
        return Proposal((node,), answer)
    return Proposal((node,), refusals=() if refusal is None else (refusal,))


CONVERSION = Conversion(name="weight_to_static", proposals=_proposals)
