"""Bake a weight that the model normalises anew at every run.

What it does:
    Weight norm, spectral norm and weight standardisation compute a weight from constants only. Their result becomes the
    stored weight, and the operations that computed it go.

When it holds:
    Everything that the weight is computed from is constant.

Example:
    ``Reshape(BatchNormalization(Reshape(W))) -> Conv`` becomes ``Conv``.

Refused when:
    A part of the computation is not constant (``constant``).

Law: `normfold.core.laws.collapse`.
"""

from __future__ import annotations

from collections.abc import Iterable

from normfold.core.graph import Graph
from normfold.core.plan import Plan, Remove, SetView
from normfold.core.rules.rule import Rewrite
from normfold.core.views import Linear


def _plans(graph: Graph, view: Linear) -> Iterable[Plan]:
    made = graph.normalised_by(view.node)
    if made:
        yield Plan((SetView(view), *map(Remove, made)), into=(view.node,), rules=(RULE.name,))


RULE = Rewrite(name="bake_normalised_weight", view=Linear, plans=_plans)
