"""Walks a map through the graph: a chain of rules that ends where the map is absorbed.

The walk goes from an origin to its producer or to its consumers, one operation at a time. At each value it proves
what must hold of any value whose content changes; at each operation it asks the rules for that kind of map. A way is a
plan only when every branch of it ends in an absorption. What the map is for, the walk does not know.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from normfold.core.algebra import Affine, Map
from normfold.core.graph import Graph
from normfold.core.origins import Origin, affine_folds
from normfold.core.plan import Bypass, Change, Insert, Plan
from normfold.core.premises import (
    LINEAR_CONSUMER,
    LINEAR_PRODUCER,
    SAME_SCOPE,
    SAME_SHAPE,
    SELECTED,
    SHORT_ROUTE,
    SINGLE_USE,
    WELL_CONDITIONED,
)
from normfold.core.rules import BACKWARD, FORWARD, Carry, Step, Target, carries
from normfold.core.views import AffineOp, BatchLayer, Concat, DynamicTanh, Moving, Node, Norm, View
from normfold.records import Refusal

DEPTH = 64
"""Most operations on one route; real routes have a handful."""
FANOUT = 32
"""Most other readers of a value that are given the inverse of a map."""
MOST_CANCELLED = 30.0
"""Cancellation up to which a map is undone for other readers: it costs as many units of rounding."""
EFFORT = 400
"""Most steps tried for one norm: branches that refuse late would otherwise multiply."""


@dataclass
class Search:
    """One norm's search; ``refusals`` collects every premise that failed on the way. Nodes in ``kept`` must stay."""

    graph: Graph
    kept: Collection[Node] = ()
    undoes: bool = True
    """Whether other readers of a value that the map changes may be given its inverse."""
    refusals: list[Refusal] = field(default_factory=list)
    effort: int = 0
    cancellation: float = 0.0
    """How many times the deviation of the values the map moves them by: what is lost in undoing it."""

    def ways_out(self, node: Node) -> Iterator[Plan]:
        """Plans that take the affine operation ``node`` out of the graph, or the scale and shift out of a norm."""
        view = self.graph.view(node)
        if isinstance(view, Norm | DynamicTanh | BatchLayer):
            self.refuse(view.core)
        self.refuse(*view.refusals)
        if isinstance(view, AffineOp):
            self.cancellation = _cancellation(view)
        for origin in affine_folds(view):
            yield from self.route(origin)

    def route(self, origin: Origin) -> Iterator[Plan]:
        """Plans in which every branch of the way of the map from ``origin`` ends where the map is absorbed."""
        if origin.view.refusals:
            return
        for plan in self._follow(origin.plan, origin.target, origin.view.node, DEPTH):
            if plan.into:
                yield plan
            else:
                because = f"nothing reads what {self.graph.label(origin.view.node)} makes, but for its shape"
                self.refuse(Refusal(LINEAR_CONSUMER, because))

    def _follow(self, plan: Plan, target: Target, origin: Node, depth: int) -> Iterator[Plan]:
        """``plan`` completed so that the map of ``target`` is absorbed beyond its value."""
        self.effort += 1
        if depth == 0 or self.effort > EFFORT:
            self.refuse(
                Refusal(SHORT_ROUTE, f"the way from here through {self.graph.label(origin)} is too long to search")
            )
        elif self._is_misfit(target):
            because = (
                f"the map has other sizes there than {self.graph.label(target.value)}: the model contradicts itself"
            )
            self.refuse(Refusal(SAME_SHAPE, because))
        elif target.direction == BACKWARD:
            yield from self._follow_back(plan, target, origin, depth)
        else:
            yield from self._follow_on(plan, target, origin, depth)

    def _is_misfit(self, target: Target) -> bool:
        dims = self.graph.shape(target.value) if isinstance(target.map, Affine) else None
        return dims is not None and isinstance(target.map, Affine) and not target.map.fits(dims)

    def _follow_back(self, plan: Plan, target: Target, origin: Node, depth: int) -> Iterator[Plan]:
        value, graph = target.value, self.graph
        producer = graph.producer(value)
        if producer is None:
            self.refuse(Refusal(LINEAR_PRODUCER, f"{graph.label(value)} is a model input: no operation before it"))
            return
        others = [node for node, _ in graph.consumers(value) if node is not origin]
        if len(graph.consumers(value)) > 1:
            who = ", ".join(graph.label(node) for node in others[:3]) or graph.label(origin)
            self.refuse(Refusal(SINGLE_USE, f"the output of {graph.label(producer)} is also read by {who}"))
            # A reader that reads the value twice cannot be the origin and another one.
            if len(others) != len(graph.consumers(value)) - 1 or not self._undone_by(others, target):
                return
        if not graph.same_scope(producer, origin):
            self.refuse(Refusal(SAME_SCOPE, f"{graph.label(producer)} stands in another graph body"))
            return
        escape = graph.escapes(value)
        if escape is not None:
            self.refuse(escape)
            return
        plan = replace(plan, changed=(*plan.changed, Change(value, target.map)))
        for one in self._undone(plan, others, target, depth - 1):
            view = one.view(producer) or graph.view(producer)
            port = view.outputs.index(value) if value in view.outputs else -1
            yield from self._arrive(one, view, port, target, depth)

    def _undone(self, plan: Plan, others: Sequence[Node], target: Target, depth: int) -> Iterator[Plan]:
        """``plan`` with the inverse of the map in every other reader of its value."""
        if not others:
            yield plan
            return
        undo, said = Target(FORWARD, target.value, target.map.inverse()), len(self.refusals)
        # Those that refuse at once come first: what lies behind the others takes long to search.
        passing = sorted(others, key=lambda node: isinstance(self.graph.view(node), AffineOp | Concat | Moving))
        yield from self._into_all(plan, passing, undo, depth)
        # One reason why it cannot be undone will do.
        del self.refusals[said + 1 :]

    def _undone_by(self, others: Sequence[Node], target: Target) -> bool:
        """Whether the other readers may be given the inverse of the map, so that they see what they saw."""
        if not self.undoes or len(others) > FANOUT or not target.map.invertible:
            return False
        if self.cancellation <= MOST_CANCELLED:
            return True
        because = f"undoing it for other readers would cancel {self.cancellation:.3g} times what the values vary by"
        self.refuse(Refusal(WELL_CONDITIONED, because))
        return False

    def _follow_on(self, plan: Plan, target: Target, origin: Node, depth: int) -> Iterator[Plan]:
        value, graph = target.value, self.graph
        escape = graph.escapes(value)
        if escape is not None:
            self.refuse(escape)
            return
        # Where the origin goes, so does its output, and no value of that name is left to be another one.
        if not plan.bypasses(origin):
            plan = replace(plan, changed=(*plan.changed, Change(value, target.map, undone=True)))
        # A branch of which nobody reads more than the shape has nothing to absorb.
        yield from self._into_all(plan, [node for node, _ in graph.consumers(value)], target, depth)

    def _into_all(self, plan: Plan, readers: list[Node], target: Target, depth: int) -> Iterator[Plan]:
        if not readers:
            yield plan
            return
        view = plan.view(readers[0]) or self.graph.view(readers[0])
        # A reader of the same value twice would need the map twice, and may see it where no view says so.
        times = list(view.inputs).count(target.value)
        if times != 1:
            how = "reads it more than once" if times else "does not read it as data"
            self.refuse(Refusal(LINEAR_CONSUMER, f"{self.graph.label(view.node)} {how}"))
            return
        for one in self._arrive(plan, view, view.inputs.index(target.value), target, depth):
            yield from self._into_all(one, readers[1:], target, depth)

    def _arrive(self, plan: Plan, view: View, port: int, target: Target, depth: int) -> Iterator[Plan]:
        if view.refusals:
            self.refuse(*view.refusals)
            return
        if plan.bypasses(view.node) or any(one.value in view.outputs for one in plan.each(Insert)):
            # Its own map has gone on with what arrived first, or stands behind it now; it must not do so again.
            self.refuse(
                Refusal(SINGLE_USE, f"{self.graph.label(view.node)} is reached on two ways and can go only once")
            )
            return
        carry = Carry(self.graph, view, target.direction, target.map, port)
        rules = carries(target.map, view, target.direction)
        if not rules or port < 0:
            self.refuse(self._no_rule(view, target))
        for rule in rules:
            refusal = rule.refusal(carry) if port >= 0 else None
            if refusal is not None:
                self.refuse(refusal)
            elif port >= 0:
                for step in rule.steps(carry):
                    yield from self._take(replace(plan, rules=(*plan.rules, rule.name)), carry, step, depth)

    def _take(self, plan: Plan, carry: Carry[View, Map], step: Step, depth: int) -> Iterator[Plan]:
        node = carry.view.node
        plan = plan.adding(*step.inserted)
        if step.view is not None:
            plan = replace(plan.with_view(step.view), into=(*plan.into, node))
        if step.remove and node in self.kept:
            self.refuse(Refusal(SELECTED, f"{carry.label}, which was left out, would have to go with it"))
            return
        if step.remove:
            plan = plan.adding(Bypass(node, carry.view.inputs[0], same=carry.direction == BACKWARD))
        if step.remove and not step.onward:
            # The two cancel: what stands before them is as it has to be.
            before = self.graph.producer(carry.view.inputs[0])
            plan = plan if before is None else replace(plan, into=(*plan.into, before))
        yield from self._follow_each(plan, list(step.onward), node, depth)

    def _follow_each(self, plan: Plan, targets: list[Target], origin: Node, depth: int) -> Iterator[Plan]:
        if not targets:
            yield plan
            return
        for one in self._follow(plan, targets[0], origin, depth - 1):
            yield from self._follow_each(one, targets[1:], origin, depth)

    def _no_rule(self, view: View, target: Target) -> Refusal:
        label = self.graph.label(view.node)
        if target.direction == BACKWARD:
            return Refusal(LINEAR_PRODUCER, f"its input comes from {label}, which cannot take {target.map.says}")
        return Refusal(LINEAR_CONSUMER, f"{label} reads it, which cannot take {target.map.says}")

    def refuse(self, *refusals: Refusal) -> None:
        """Note why a way is no way."""
        self.refusals += [refusal for refusal in refusals if refusal not in self.refusals]


def _cancellation(view: AffineOp) -> float:
    """The shift in units of the values' own deviation; where that is not known, of the norm's output at scale one."""
    if not (view.affine.invertible and view.affine.finite):
        return math.inf
    deviation = 1 / np.abs(view.affine.scale) if view.statistics is None else view.statistics.deviation
    return float(np.max(np.abs(view.affine.shift / view.affine.scale) / deviation, initial=0.0))
