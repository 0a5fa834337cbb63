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

Law: `normfold.core.laws.collapse`.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from normfold.core.graph import Graph
from normfold.core.plan import Bypass, Plan
from normfold.core.rules.rule import Rewrite
from normfold.core.views import AffineOp, View

ROUNDING = 4 * np.finfo(np.float64).eps
"""How far from one a product of a number and its reciprocal may be."""


def without(graph: Graph, view: View, rule: str) -> Iterable[Plan]:
    """The plan that takes out ``view``, which changes nothing, unless its output's name would be lost."""
    source, producer = view.inputs[0], graph.producer(view.inputs[0])
    if graph.escapes(view.outputs[0]) is not None:
        named = producer is not None and graph.same_scope(producer, view.node) and graph.escapes(source) is None
        if not named:
            return
    into = () if producer is None else (producer,)
    yield Plan((Bypass(view.node, source),), into=into, rules=(rule,))


def _plans(graph: Graph, view: AffineOp) -> Iterable[Plan]:
    one = bool((np.abs(view.affine.scale - 1) <= ROUNDING).all())
    if one and not (view.refusals or view.affine.shifts):
        yield from without(graph, view, RULE.name)


RULE = Rewrite(name="drop_identity_map", view=AffineOp, plans=_plans)
