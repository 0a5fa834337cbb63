"""Fold a permutation of channels into the linear operations that read it.

What it does:
    A Gather that takes every channel once (RGB from BGR) goes, and the input channels of the weights after it are
    put in the order that they now find. Constants on the way change places likewise.

When it holds:
    Every operation that reads the channels is linear and sums over them, or passes them on as they are: arithmetic by
    constants, Pad, pooling and Transpose. In a grouped convolution no channel leaves its group.

Example:
    ``Gather([2, 1, 0]) -> Conv`` becomes ``Conv``.

Refused when:
    A reader cannot take it (``linear-consumer``), a channel would leave its group (``same-group``), the operation does
    not sum over the channels (``per-input-channel``), or the channels are an output (``not-output``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from normfold.core.algebra import Affine, Permute, Shuffle
from normfold.core.algebra.moves import carry
from normfold.core.graph import Graph
from normfold.core.laws import permutation
from normfold.core.laws.permutation import permute_columns
from normfold.core.plan import Bypass, Plan
from normfold.core.premises import LINEAR_CONSUMER, NOT_OUTPUT, PER_INPUT_CHANNEL, SAME_GROUP
from normfold.core.rules.rule import Place, Rewrite
from normfold.core.views import AffineOp, Blend, Linear, Moving, Pad, Value, View
from normfold.records import Premise, Refusal

STATED = (NOT_OUTPUT, LINEAR_CONSUMER, PER_INPUT_CHANNEL, SAME_GROUP)


@dataclass(frozen=True, eq=False)
class Shuffled(Place[Moving]):
    """A permutation of channels, and what becomes of it in what reads it."""

    shuffle: Shuffle

    @cached_property
    def outcome(self) -> Plan | Refusal:
        """The plan that takes it into every reader, or the first reason why one cannot have it."""
        start = Plan((Bypass(self.view.node, self.view.inputs[0]),), rules=(RULE.name,))
        return _into_readers(self.graph, start, self.view.outputs[0], self.shuffle)


def _places(graph: Graph, view: Moving) -> Iterable[Shuffled]:
    if len(view.moves) == 1 and isinstance(view.moves[0], Shuffle):
        yield Shuffled(graph, view, view.moves[0])


def _stated(premise: Premise) -> tuple[Premise, Callable[[Shuffled], str | None]]:
    def test(place: Shuffled) -> str | None:
        outcome = place.outcome
        if not isinstance(outcome, Refusal):
            return None
        # What a reader lacks by itself keeps it from taking anything.
        failed = outcome.premise if outcome.premise in STATED else LINEAR_CONSUMER
        return outcome.because if failed == premise else None

    return premise, test


def _plan(place: Shuffled) -> Plan:
    if isinstance(place.outcome, Refusal):
        raise TypeError(f"{place.outcome.premise} does not hold")
    return place.outcome


def _into_readers(graph: Graph, plan: Plan, value: Value, shuffle: Shuffle) -> Plan | Refusal:
    """``plan`` with every reader of ``value`` taking it before the shuffle."""
    escape = graph.escapes(value)
    if escape is not None:
        return Refusal(NOT_OUTPUT, escape)
    if graph.producer(value) not in plan.gone:
        plan = replace(plan, changed=(*plan.changed, value))
    readers = [node for node, _ in graph.consumers(value)]
    if not readers:
        return Refusal(LINEAR_CONSUMER, f"nothing reads {graph.label(value)}")
    for node in readers:
        view = plan.view(node) or graph.view(node)
        if view.refusals:
            return view.refusals[0]
        if list(view.inputs).count(value) != 1:
            return _unable(graph, view)
        found = _absorbed(graph, plan, view, shuffle) if isinstance(view, Linear) else _past(graph, plan, view, shuffle)
        if isinstance(found, Refusal):
            return found
        plan = found
    return plan


def _absorbed(graph: Graph, plan: Plan, view: Linear, shuffle: Shuffle) -> Plan | Refusal:
    label = graph.label(view.node)
    place = view.in_axes.index(shuffle.axis) if shuffle.axis in view.in_axes else None
    # One matrix for a whole batch has size 1 along it.
    if place is None or view.in_sizes[place] != len(shuffle.order):
        return Refusal(PER_INPUT_CHANNEL, f"{label} does not sum over the channels that change places")
    weight = permute_columns(view.weight, place, view.in_sizes, shuffle.order)
    if weight is None:
        return Refusal(SAME_GROUP, f"{label} has {view.weight.groups} groups, and a channel would leave its own")
    return replace(plan.with_view(replace(view, weight=weight)), into=(*plan.into, view.node))


def _past(graph: Graph, plan: Plan, view: View, shuffle: Shuffle) -> Plan | Refusal:
    """``plan`` with the shuffle beyond an operation that is not linear."""
    if isinstance(view, AffineOp):
        affine = carry(shuffle, view.affine, backward=True)
        if affine is None or not (_alike(affine, view.affine) or view.holds_scale or view.holds_shift):
            return _unable(graph, view)
        changed = plan if _alike(affine, view.affine) else plan.with_view(replace(view, affine=affine))
        return _into_readers(graph, changed, view.outputs[0], shuffle)
    beyond = _beyond(view, shuffle)
    return _unable(graph, view) if beyond is None else _into_readers(graph, plan, view.outputs[0], beyond)


def _alike(first: Affine, second: Affine) -> bool:
    return np.array_equal(first.scale, second.scale) and np.array_equal(first.shift, second.shift)


def _beyond(view: View, shuffle: Shuffle) -> Shuffle | None:
    """The shuffle after an operation that leaves the channels as they are; ``None`` where it does not."""
    if isinstance(view, Pad):
        return None if shuffle.axis in view.axes else shuffle
    if isinstance(view, Blend):
        return None if shuffle.axis in view.axes or view.move != Permute() else shuffle
    if not isinstance(view, Moving) or len(view.moves) != 1 or not isinstance(view.moves[0], Permute):
        return None
    order = view.moves[0].order
    return shuffle if not order else Shuffle(order.index(len(order) + shuffle.axis) - len(order), shuffle.order)


def _unable(graph: Graph, view: View) -> Refusal:
    return Refusal(LINEAR_CONSUMER, f"{graph.label(view.node)} reads the channels, and cannot take their order")


RULE = Rewrite(
    name="fold_shuffle_into_consumer",
    law=permutation.LAW,
    view=Moving,
    places=_places,
    premises=tuple(map(_stated, STATED)),
    plan=_plan,
)
