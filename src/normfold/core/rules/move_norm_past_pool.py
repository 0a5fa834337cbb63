"""Move a norm that stays behind the pooling that reads it, where there are fewer elements to normalise.

What it does:
    The pooling reads what the norm read, and the norm reads the pooling and writes what the pooling wrote. No constant
    changes.

When it holds:
    Nothing but the pooling reads the norm's output, the norm's map passes the pooling unchanged
    (`normfold.core.rules.carry_affine_through_pool`), the pooling makes the value smaller, and the cost table says
    that a norm behind a pooling costs less than one before it.

Example:
    ``Relu -> BatchNormalization -> MaxPool`` becomes ``Relu -> MaxPool -> BatchNormalization``, with positive scales.

Refused when:
    Something else reads the norm (``single-use``, ``not-output``), the pooling takes axes away (``static-reshape``) or
    does not make the value smaller (``does-not-pay``), or the norm's map does not pass it (``not-pooled-axis``,
    ``non-negative-scale``, ``every-tap``). The cost table comes first: without its word, nothing is looked at.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from normfold.core.algebra import Affine, Permute
from normfold.core.graph import Graph
from normfold.core.laws import routes
from normfold.core.plan import Move, Plan
from normfold.core.premises import DOES_NOT_PAY, NOT_OUTPUT, SINGLE_USE, STATIC_RESHAPE
from normfold.core.rules.carry_affine_through_pool import RULE as PASSING
from normfold.core.rules.rule import FORWARD, Carry, Place, Rewrite
from normfold.core.rules.shared import not_output, shrinks, single_use
from normfold.core.views import AffineOp, Blend, Value, View


@dataclass(frozen=True, eq=False, slots=True)
class Pooled(Place[AffineOp]):
    """A norm and a pooling that reads it."""

    pool: Blend

    @property
    def parts(self) -> tuple[View, ...]:
        """Both."""
        return (self.view, self.pool)

    @property
    def changing(self) -> tuple[Value, ...]:
        """What the norm makes."""
        return self.view.outputs

    @property
    def carry(self) -> Carry[Blend, Affine]:
        """The norm's map, arrived at the pooling."""
        return Carry(self.graph, self.pool, FORWARD, self.view.affine)


def _places(graph: Graph, view: AffineOp) -> Iterable[Pooled]:
    for node, _ in graph.consumers(view.outputs[0]):
        pool = graph.view(node)
        if isinstance(pool, Blend):
            yield Pooled(graph, view, pool)


def _static_reshape(place: Pooled) -> str | None:
    if place.pool.move == Permute():
        return None
    return f"{place.graph.label(place.pool.node)} takes the axes away that it pools"


def _shrinks(place: Pooled) -> str | None:
    return shrinks(place.graph, place.pool)


def _plan(place: Pooled) -> Plan:
    node = place.pool.node
    return Plan((Move(place.view.node, node),), into=(node,), rules=(RULE.name,))


RULE = Rewrite(
    name="move_norm_past_pool",
    law=routes.LAW,
    view=AffineOp,
    places=_places,
    premises=(
        (SINGLE_USE, single_use),
        (NOT_OUTPUT, not_output),
        (STATIC_RESHAPE, _static_reshape),
        *((premise, lambda place, test=test: test(place.carry)) for premise, test in PASSING.premises),
        (DOES_NOT_PAY, _shrinks),
    ),
    plan=_plan,
)
