"""Drop an operation that moves nothing.

What it does:
    A Slice of everything, a Reshape or Transpose into what is there already, a Pad by nothing, a Concat of one value,
    an Identity, a Dropout at inference: the operation goes. Runtimes leave them in, and lose a faster memory
    layout around them.

When it holds:
    The shapes show that every element stays where it is.

Example:
    ``Concat -> Slice(0:240) -> Conv``, where the Concat has 240 channels, becomes ``Concat -> Conv``.

Refused when:
    The operation makes an output of the graph out of an input, or of another output (``not-output``).
"""

from __future__ import annotations

from collections.abc import Iterable

from normfold.core.algebra import is_identity
from normfold.core.graph import Graph
from normfold.core.laws import routes
from normfold.core.plan import Plan
from normfold.core.premises import NOT_OUTPUT
from normfold.core.rules.rule import Place, Rewrite
from normfold.core.rules.shared import dropped, name_kept
from normfold.core.views import Moving


def _places(graph: Graph, view: Moving) -> Iterable[Place[Moving]]:
    if len(view.outputs) == 1 and is_identity(view.moves[0]):
        yield Place(graph, view)


def _plan(place: Place[Moving]) -> Plan:
    return dropped(place, RULE.name)


RULE = Rewrite(
    name="drop_identity_move",
    law=routes.LAW,
    view=Moving,
    places=_places,
    premises=((NOT_OUTPUT, name_kept),),
    plan=_plan,
)
