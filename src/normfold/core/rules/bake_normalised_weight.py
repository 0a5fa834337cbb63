"""Bake a weight that the model normalises anew at every run.

What it does:
    Weight norm, spectral norm and weight standardisation compute a weight from constants only. Their result becomes the
    stored weight, and the operations that computed it go. In a module, a plain convolution takes the place of one such
    as timm's StdConv2d; a module with PyTorch's weight norm or spectral norm loses that.

When it holds:
    Everything that the weight is computed from is constant.

Example:
    ``Reshape(BatchNormalization(Reshape(W))) -> Conv`` becomes ``Conv``.

Refused when:
    A part of the computation is not constant (``constant``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from normfold.core.graph import Graph
from normfold.core.laws import collapse
from normfold.core.plan import Plan, Remove, SetView
from normfold.core.rules.rule import Place, Rewrite
from normfold.core.views import Linear, Node


@dataclass(frozen=True, eq=False, slots=True)
class Computed(Place[Linear]):
    """A weight and the operations that compute it from constants."""

    made: tuple[Node, ...]


def _places(graph: Graph, view: Linear) -> Iterable[Computed]:
    made = graph.normalised_by(view.node)
    if made:
        yield Computed(graph, view, tuple(made))


def _plan(place: Computed) -> Plan:
    view = place.view
    return Plan((SetView(view), *map(Remove, place.made)), into=(view.node,), rules=(RULE.name,))


RULE = Rewrite(name="bake_normalised_weight", law=collapse.LAW, view=Linear, places=_places, premises=(), plan=_plan)
