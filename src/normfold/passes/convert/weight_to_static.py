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
from normfold.core.premises import CONVERTIBLE
from normfold.core.rules.bake_normalised_weight import RULE
from normfold.core.views import Linear, Node
from normfold.passes.convert.conversion import Asked, Conversion, Proposal
from normfold.records import Refusal


def _proposals(graph: Graph, norms: Sequence[Node], _asked: Asked) -> Iterator[Proposal]:
    for node in norms:
        yield baked(graph, node)


def baked(graph: Graph, node: Node) -> Proposal:
    """The plan that stores the weight of ``node`` as it is computed, or why there is none."""
    view = graph.view(node)
    if not graph.normalised_by(node):  # with that of another call of the same module
        return Proposal((node,), Plan(into=(node,), rules=(RULE.name,)))
    for _, answer in RULE.answers(graph, view) if isinstance(view, Linear) else ():
        refusal = graph.unable(answer) if isinstance(answer, Plan) else answer
        if isinstance(answer, Plan) and refusal is None:
            return Proposal((node,), answer)
        if refusal is not None:
            return Proposal((node,), refusals=(refusal,))
    return Proposal((node,), refusals=(Refusal(CONVERTIBLE, f"the weight of {graph.label(node)} is not baked"),))


CONVERSION = Conversion(name="weight_to_static", proposals=_proposals)
