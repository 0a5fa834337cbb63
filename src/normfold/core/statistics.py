"""What norms know about the values of a model, kept for the model without them.

A BatchNorm tells the mean and the deviation of what it reads, hence of what it makes. Before a fold these are noted by
the value's name; afterwards those names that are left mean what they meant, so what was noted of them still holds:
where a norm went into its producer, of its output, where into its consumers, of its input. Of a value that holds a map
of what it held, and whose name is new for that reason, what the map makes of them is noted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass, replace

import numpy as np

from normfold.core.algebra import Moments, independent_sum
from normfold.core.graph import Graph
from normfold.core.plan import Change, Plan
from normfold.core.views import AffineOp, Moving, Sum, Value, View
from normfold.records import Derivation, StatisticsRecord


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of one value, from which norms; ``terms`` names the values that a sum was derived from."""

    moments: Moments
    sites: tuple[str, ...]
    derived: Derivation | None = None
    terms: tuple[str, ...] = ()

    def after(self, change: Change) -> Known | None:
        """What is known of the value once it has changed, if anything."""
        if change.map is None or (change.undone and not change.map.invertible):
            return None
        moments = self.moments.mapped(change.map.inverse() if change.undone else change.map)
        return None if moments is None else replace(self, moments=moments)


def known_statistics(graph: Graph) -> dict[str, Known]:
    """What the norms of ``graph`` tell of its values, by name.

    Where the model came with records, its norms are not asked: one that has absorbed what stood before it keeps the
    statistics of what it read then.
    """
    stored = graph.records()
    by_name = {record.value: record for record in stored or ()}
    found: dict[Value, Known] = {}
    for node in graph.nodes():
        view = graph.view(node)
        for value in (*view.inputs, *view.outputs):
            record = by_name.get(graph.value_name(value))
            if record is not None and value not in found and _fits(graph, value, record):
                found[value] = _known(record)
        if not view.refusals:
            _measured(graph, view, found, ask=stored is None)
            for value, known in _derived(graph, view, found):
                found.setdefault(value, known)
    return {graph.value_name(value): known for value, known in found.items()}


def surviving(known: Mapping[str, Known], origins: Mapping[str, str]) -> tuple[StatisticsRecord, ...]:
    """Records of the values that are left; ``origins`` has their names in the result by those that ``known`` uses.

    A sum gets one only where a term that it was derived from is gone.
    """
    records = (
        _record(origins[name], one)
        for name, one in known.items()
        if name in origins and not (one.terms and all(term in origins for term in one.terms))
    )
    return tuple(record for record in records if record is not None)


def commit(graph: Graph, plan: Plan, known: MutableMapping[str, Known]) -> None:
    """Carry out ``plan`` on ``graph``, and let ``known`` follow the values that change."""
    before = [(change, known.pop(graph.value_name(change.value), None)) for change in plan.changed]
    names = graph.commit(plan)
    for change, one in before:
        name, after = names.get(change.value), None if one is None else one.after(change)
        if name is not None and after is not None:
            known[name] = after


def _measured(graph: Graph, view: View, found: dict[Value, Known], *, ask: bool) -> None:
    if ask and isinstance(view, AffineOp) and view.statistics is not None and view.statistics.moments.finite:
        source, sites = view.inputs[0], (graph.name(view.node),)
        before = found.get(source)
        if before is None or before.derived is not None:
            found[source] = Known(view.statistics.moments, sites)
        found[view.outputs[0]] = Known(found[source].moments.through(view.affine), sites)


def _derived(graph: Graph, view: View, found: Mapping[Value, Known]) -> Iterator[tuple[Value, Known]]:
    """What follows for the outputs of an operation from what is known of its inputs."""
    terms = [found[value] for value in view.inputs if value in found]
    if not terms or len(terms) < len(view.inputs):
        return
    first = terms[0]
    if isinstance(view, AffineOp):
        yield view.outputs[0], Known(first.moments.through(view.affine), first.sites, first.derived, first.terms)
    elif isinstance(view, Moving):
        for value, move in zip(view.outputs, view.moves, strict=True):
            moments = first.moments.moved(move)
            if moments is not None:
                yield value, Known(moments, first.sites, first.derived, first.terms)
    elif isinstance(view, Sum) and len(set(view.inputs)) == len(view.inputs):
        moments = independent_sum([term.moments for term in terms], view.signs)
        sites = tuple(dict.fromkeys(site for term in terms for site in term.sites))
        yield view.outputs[0], Known(moments, sites, "independent", tuple(map(graph.value_name, view.inputs)))


def _known(record: StatisticsRecord) -> Known:
    spread = () if record.axis is None else (-1, *[1] * (-1 - record.axis))
    mean, deviation = (np.asarray(numbers, dtype=np.float64) for numbers in (record.mean, record.deviation))
    moments = Moments.of(mean.reshape(spread), deviation.reshape(spread))
    return Known(moments, record.sites, record.derived)


def _fits(graph: Graph, value: Value, record: StatisticsRecord) -> bool:
    """Whether ``value`` can have as many channels as ``record`` speaks of."""
    if record.axis is None:
        return len(record.mean) == 1
    shape = graph.shape(value)
    if shape is None:
        return True
    size = shape[record.axis] if len(shape) >= -record.axis else 0
    return size == len(record.mean) or not isinstance(size, int)


def _record(name: str, known: Known) -> StatisticsRecord | None:
    moments = known.moments
    axis = moments.axis
    single = np.stack([moments.mean, moments.deviation]).astype(np.float32)
    if not np.isfinite(single).all() or (axis is None and moments.mean.size > 1):
        return None
    mean, deviation = (tuple(map(float, numbers.reshape(-1))) for numbers in single)
    return StatisticsRecord(name, axis, mean, deviation, known.sites, known.derived)
