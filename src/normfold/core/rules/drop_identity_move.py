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

Law: `normfold.core.laws.routes`.
"""

from __future__ import annotations

from collections.abc import Iterable

from normfold.core.algebra import is_identity
from normfold.core.graph import Graph
from normfold.core.plan import Plan
from normfold.core.rules.drop_identity_map import without
from normfold.core.rules.rule import Rewrite
from normfold.core.views import Moving


def _plans(graph: Graph, view: Moving) -> Iterable[Plan]:
    if len(view.outputs) == 1 and not view.refusals and is_identity(view.moves[0]):
        yield from without(graph, view, RULE.name)


RULE = Rewrite(name="drop_identity_move", view=Moving, plans=_plans)
