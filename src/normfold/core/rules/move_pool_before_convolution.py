"""Move an average pooling before the pointwise convolution that it follows, which then has fewer positions to see.

What it does:
    The pooling reads what the convolution read, and the convolution reads the pooling and writes what the pooling
    wrote. No constant changes. No norm takes part.

When it holds:
    The convolution has a kernel and a stride of one and no padding, nothing else reads its output, the pooling makes
    the value smaller, and the cost table says that both cost less that way round. Where the pooling counts zeros of
    its padding, the convolution has no bias.

Example:
    ``Conv1x1(256 to 128) -> AveragePool(2x2)`` becomes ``AveragePool(2x2) -> Conv1x1(256 to 128)``, with a quarter of
    the multiplications.

Refused when:
    Something else reads the convolution (``single-use``, ``not-output``), the pooling averages channels
    (``not-pooled-axis``), takes axes away (``static-reshape``), counts a padding that the bias would not reach
    (``every-tap``) or does not make the value smaller (``does-not-pay``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from normfold.core.algebra import Permute
from normfold.core.graph import Graph, maker
from normfold.core.laws import pooled
from normfold.core.plan import Move, Plan
from normfold.core.premises import (
    DOES_NOT_PAY,
    EVERY_TAP,
    NOT_OUTPUT,
    NOT_POOLED_AXIS,
    SINGLE_USE,
    STATIC_RESHAPE,
)
from normfold.core.rules.rule import Place, Rewrite
from normfold.core.rules.shared import is_pointwise, not_output, shrinks, single_use
from normfold.core.views import Linear, Pool, Value, View


@dataclass(frozen=True, eq=False, slots=True)
class Pointwise(Place[Pool]):
    """An average pooling and the pointwise convolution before it."""

    convolution: Linear

    @property
    def parts(self) -> tuple[View, ...]:
        """Both."""
        return (self.convolution, self.view)

    @property
    def changing(self) -> tuple[Value, ...]:
        """What the convolution makes."""
        return self.convolution.outputs


def _places(graph: Graph, view: Pool) -> Iterable[Pointwise]:
    before = None if view.maximum else maker(graph, view.inputs[0])
    if isinstance(before, Linear) and is_pointwise(before):
        yield Pointwise(graph, view, before)


def _not_pooled_axis(place: Pointwise) -> str | None:
    spatial = len(place.convolution.weight.taps)
    if all(axis >= -spatial for axis in place.view.axes):
        return None
    return f"{place.label} averages over the channels that {place.graph.label(place.convolution.node)} makes"


def _static_reshape(place: Pointwise) -> str | None:
    return None if place.view.move == Permute() else f"{place.label} takes the axes away that it pools"


def _every_tap(place: Pointwise) -> str | None:
    bias = place.convolution.bias
    if place.view.keeps_shift or bias is None or not bias.any():
        return None
    return f"{place.label} averages zeros of its padding in, which the bias before it would not reach"


def _shrinks(place: Pointwise) -> str | None:
    return shrinks(place.graph, place.view)


def _plan(place: Pointwise) -> Plan:
    node = place.view.node
    return Plan((Move(place.convolution.node, node),), into=(node,), rules=(RULE.name,))


RULE = Rewrite(
    name="move_pool_before_convolution",
    law=pooled.LAW,
    view=Pool,
    places=_places,
    premises=(
        (SINGLE_USE, single_use),
        (NOT_OUTPUT, not_output),
        (NOT_POOLED_AXIS, _not_pooled_axis),
        (STATIC_RESHAPE, _static_reshape),
        (EVERY_TAP, _every_tap),
        (DOES_NOT_PAY, _shrinks),
    ),
    plan=_plan,
)
