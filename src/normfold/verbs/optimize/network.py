"""The source as a map: its nodes, and what became of the norms among them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir

from normfold.models.source import onnx_source
from normfold.pipeline.stages import Json
from normfold.records import Decision
from normfold.report.network import Node, network_map
from normfold.verbs.optimize.result import decision_of


def network(file: Path, found: Json) -> dict[str, Any]:
    """The map of the model in ``file``, the source of what ``found`` is about."""
    graph = onnx_source(file).fresh().graph
    decisions = {one.site: one for one in map(decision_of, found["decisions"])}
    times = {name: spent for name, _, spent in found["figures"]["before"]["nodes"]}
    return network_map(list(_nodes([node for node in graph if node.op_type != "Constant"], decisions, times)))


def _nodes(
    nodes: Sequence[onnx_ir.Node], decisions: Mapping[str, Decision], times: Mapping[str, float]
) -> Iterator[Node]:
    places = {id(node): index for index, node in enumerate(nodes)}
    for index, node in enumerate(nodes):
        producers = (value.producer() for value in node.inputs if value is not None)
        before = {places[id(one)] for one in producers if one is not None and id(one) in places}
        name = node.name or next((output.name for output in node.outputs if output.name), "") or node.op_type
        decision = decisions.get(name) or decisions.get(str(node.outputs[0].name))
        yield Node(
            name,
            node.op_type,
            tuple(sorted(one for one in before if one < index)),
            "" if decision is None else decision.outcome,
            "" if decision is None else sentence(decision),
            times.get(name),
        )


def sentence(decision: Decision) -> str:
    """What became of a norm, and the premises that kept it."""
    if decision.refused_by:
        reasons = dict.fromkeys(
            f"{one.premise}: {one.because.rstrip('.')}. {one.premise.advice}".rstrip() for one in decision.refused_by
        )
        return " ".join(reasons)
    ways = f"by {', '.join(decision.rules)}" if decision.rules else ""
    into = f"into {', '.join(decision.into)}" if decision.into else ""
    to = f"to {decision.to}, {decision.label}" if decision.to else ""
    return " ".join(part for part in (to, into, ways) if part)
