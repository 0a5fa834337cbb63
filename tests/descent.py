"""The measure that every committed plan makes smaller, so that no loop of the driver goes on for ever.

See `normfold.core.driver` for what it counts and why.
"""

from __future__ import annotations

import onnx_ir as ir

from normfold.backends.onnx import OnnxGraph
from normfold.core.graph import Graph
from normfold.core.plan import Plan
from normfold.core.views import AffineOp, Linear, Norm, Pool, Value, View
from normfold.runtime import CHECKER


def remaining(graph: Graph) -> tuple[int, int, int, int, int, int]:
    """Maps that scale, operations, tails, biases, how far poolings are from the start, and maps from the end."""
    views: list[View] = [graph.view(node) for node in graph.nodes()]
    return (
        sum(isinstance(view, AffineOp) and (view.holds_scale or view.affine.scales) for view in views),
        len(views),
        sum(isinstance(view, Norm) and view.tail is not None and _says_something(view) for view in views),
        sum(isinstance(view, Linear) and view.bias is not None and bool(view.bias.any()) for view in views),
        sum(place for place, view in enumerate(views) if isinstance(view, Pool)),
        sum(len(views) - place for place, view in enumerate(views) if isinstance(view, AffineOp)),
    )


def _says_something(view: Norm) -> bool:
    return view.tail is not None and (view.tail.scales or view.tail.shifts)


class Descending(OnnxGraph):
    """A graph that takes no plan which leaves as much to do as there was, and knows the rules of those it took."""

    def __init__(self, model: ir.Model) -> None:
        super().__init__(model, CHECKER.infer)
        self.rules: set[str] = set()

    def commit(self, plan: Plan) -> dict[Value, str]:
        """Carry out ``plan``."""
        before = remaining(self)
        names = super().commit(plan)
        assert remaining(self) < before, f"{plan.rules}: {before} became {remaining(self)}"
        self.rules.update(plan.rules)
        return names
