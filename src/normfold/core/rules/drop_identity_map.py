"""Drop a map that changes nothing.

What it does:
    A multiplication by one, an addition of zero, a norm whose scale and shift say nothing: the operation goes.

When it holds:
    Every scale is one, but for the rounding of a product, and every shift exactly zero, as in a LayerScale that was
    never trained.

Example:
    ``MatMul -> Mul(1) -> Add`` becomes ``MatMul -> Add``.

Refused when:
    The operation makes an output of the graph out of an input, or of another output (``not-output``).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from normfold.core.graph import Graph
from normfold.core.laws import collapse
from normfold.core.plan import Plan
from normfold.core.premises import NOT_OUTPUT
from normfold.core.rules.rule import Place, Rewrite
from normfold.core.rules.shared import dropped, name_kept
from normfold.core.views import AffineOp

ROUNDING = 4 * np.finfo(np.float64).eps
"""How far from one a product of a number and its reciprocal may be."""


def _places(graph: Graph, view: AffineOp) -> Iterable[Place[AffineOp]]:
    if not view.affine.shifts and bool((np.abs(view.affine.scale - 1) <= ROUNDING).all()):
        yield Place(graph, view)


def _plan(place: Place[AffineOp]) -> Plan:
    return dropped(place, RULE.name)


RULE = Rewrite(
    name="drop_identity_map",
    law=collapse.LAW,
    view=AffineOp,
    places=_places,
    premises=((NOT_OUTPUT, name_kept),),
    plan=_plan,
)
