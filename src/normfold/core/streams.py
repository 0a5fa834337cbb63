"""Residual streams: values that additions join, with what writes into them and what reads them.

A stream is found by dataflow, whatever the architecture: from the output of a linear operation on, through additions,
averages over positions and operations that only move elements, as far as the channels can be followed. A map that a
stream takes (the mean of its channels subtracted, a rotation) must reach every writer and be undone by every reader, so
it takes it whole or not at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from normfold.core.algebra.moves import followed
from normfold.core.graph import Graph
from normfold.core.premises import LINEAR_CONSUMER, LINEAR_PRODUCER
from normfold.core.views import (
    AffineOp,
    Blend,
    Concat,
    Linear,
    Moving,
    Node,
    Opaque,
    Sum,
    Value,
    View,
)
from normfold.records import Refusal


@dataclass(frozen=True, slots=True)
class Port:
    """Where ``node`` writes ``value`` into a stream, or reads it; no node where an input, a constant or an output is.

    An addition of a constant writes its output.
    """

    value: Value
    node: Node | None


@dataclass(frozen=True, eq=False, slots=True)
class Stream:
    """One residual stream of ``width`` channels.

    ``values`` holds the axis (negative) along which the channels of each of its values run. ``additions`` are the
    operations that add two branches or more. ``stops`` are the reasons why a map could not take the whole of it: an
    operation that no view describes, or a value that is seen from outside. All are in topological order.
    """

    width: int
    values: Mapping[Value, int]
    additions: tuple[Node, ...]
    writers: tuple[Port, ...]
    readers: tuple[Port, ...]
    stops: tuple[Refusal, ...]


def streams(graph: Graph) -> tuple[Stream, ...]:
    """Every residual stream of ``graph``, in topological order of the first linear operation that writes into it."""
    order = {node: k for k, node in enumerate(graph.nodes())}
    seen: set[Value] = set()
    found = []
    for node in order:
        view = graph.view(node)
        if isinstance(view, Linear) and len(view.out_axes) == 1 and view.outputs[0] not in seen:
            flood = _Flood(graph, view.weight.out_channels)
            flood.reach(view.outputs[0], view.out_axes[0])
            seen |= flood.values.keys()
            if flood.additions:
                found.append(flood.stream(order))
    return tuple(found)


@dataclass
class _Flood:
    graph: Graph
    width: int
    values: dict[Value, int] = field(default_factory=dict)
    additions: set[Node] = field(default_factory=set)
    writers: set[Port] = field(default_factory=set)
    readers: set[Port] = field(default_factory=set)

    def reach(self, value: Value, axis: int) -> None:
        """Take in ``value`` and whatever additions and moves join to it."""
        pending = [(value, axis)]
        while pending:
            value, axis = pending.pop()
            if value not in self.values:
                self.values[value] = axis
                pending += self._before(value, axis)
                pending += self._behind(value, axis)

    def _before(self, value: Value, axis: int) -> Iterator[tuple[Value, int]]:
        producer = self.graph.producer(value)
        view = None if producer is None else self.graph.view(producer)
        joined = [] if view is None else list(self._joined(view, value, axis))
        if not joined or isinstance(view, AffineOp):
            self.writers.add(Port(value, producer))
        yield from joined

    def _behind(self, value: Value, axis: int) -> Iterator[tuple[Value, int]]:
        if self.graph.escapes(value) is not None:
            self.readers.add(Port(value, None))
        for node, _ in self.graph.consumers(value):
            joined = list(self._joined(self.graph.view(node), value, axis))
            if not joined:
                self.readers.add(Port(value, node))
            yield from joined

    def _joined(self, view: View, value: Value, axis: int) -> Iterator[tuple[Value, int]]:
        """The other values of the stream at an operation that ``value`` goes into or comes out of; none ends it."""
        if isinstance(view, Sum) or (isinstance(view, Concat) and view.axis != axis):
            if isinstance(view, Sum):
                self.additions.add(view.node)
            for other in (*view.inputs, *view.outputs):
                if other is not value:
                    yield other, axis
        elif isinstance(view, AffineOp) and not view.affine.scales and not view.holds_scale:
            yield (view.inputs[0] if value in view.outputs else view.outputs[0]), axis
        elif isinstance(view, Moving):
            yield from self._moved(view, value, axis)
        elif isinstance(view, Blend) and view.averages:
            backward = value in view.outputs
            there = followed(view.move, axis, self.width, backward=backward)
            if there is not None and (there if backward else axis) not in view.axes:
                yield (view.inputs[0] if backward else view.outputs[0]), there

    def _moved(self, view: Moving, value: Value, axis: int) -> Iterator[tuple[Value, int]]:
        if value in view.outputs:
            before = followed(view.moves[view.outputs.index(value)], axis, self.width, backward=True)
            if before is not None:
                yield view.inputs[0], before
            return
        for output, move in zip(view.outputs, view.moves, strict=True):
            behind = followed(move, axis, self.width, backward=False)
            if behind is not None:
                yield output, behind

    def stream(self, order: Mapping[Node, int]) -> Stream:
        """What was found, in topological ``order``."""

        def place(port: Port) -> int:
            # What depends on no input may be no operation of the graph, and comes before all others.
            return -1 if port.node is None else order.get(port.node, -1)

        writers, readers = sorted(self.writers, key=place), sorted(self.readers, key=place)
        stops = [*self._stops(writers, writing=True), *self._stops(readers, writing=False)]
        for node in self.additions:
            stops += self.graph.view(node).refusals
        return Stream(
            self.width,
            self.values,
            tuple(sorted(self.additions, key=order.__getitem__)),
            tuple(writers),
            tuple(readers),
            tuple(dict.fromkeys(stops)),
        )

    def _stops(self, ports: list[Port], *, writing: bool) -> Iterator[Refusal]:
        for port in ports:
            view = None if port.node is None else self.graph.view(port.node)
            yield from () if view is None else view.refusals
            escape = self.graph.escapes(port.value) if view is None and not writing else None
            if escape is not None:
                yield escape
            if isinstance(view, Opaque) and not view.refusals:
                premise, verb = (LINEAR_PRODUCER, "writes into") if writing else (LINEAR_CONSUMER, "reads")
                yield Refusal(premise, f"{self.graph.label(view.node)} {verb} the stream, and no view describes it")
