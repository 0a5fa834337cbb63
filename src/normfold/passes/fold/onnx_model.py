"""What passes do to the graph of an ONNX model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir

from normfold.backends.onnx import Inference, OnnxGraph, stored
from normfold.core import driver
from normfold.core.size import size
from normfold.passes.rewritten import GraphPass, Rewritten
from normfold.records import Refusal, SiteReport, StatisticsRecord


def rewrite(
    model: onnx_ir.Model,
    inference: Inference,
    work: GraphPass,
    dropped: Mapping[str, Refusal],
    newest: int | None = None,
) -> Rewritten[onnx_ir.Model]:
    """Do ``work`` on ``model``, which is used up, with operators for norms that the opset ``newest`` has."""
    graph = OnnxGraph(model, inference, newest)
    before = size(graph, *stored(model))
    declared = [value.shape for value in model.graph.outputs]
    done = work(graph, dropped)
    _declare(model, declared)
    sizes = before, size(graph, *stored(model))
    return Rewritten(graph.model, done.decisions, done.pairs, graph.committed, sizes)


def _declare(model: onnx_ir.Model, shapes: Sequence[onnx_ir.Shape | None]) -> None:
    """Let the outputs of ``model`` state what they stated in its source, whatever value has become one."""
    for output, shape in zip(model.graph.outputs, shapes, strict=True):
        # An input that is handed on as it came states its own shape.
        if shape is not None and output.producer() is not None:
            output.shape = shape


def inspect(model: onnx_ir.Model, inference: Inference) -> tuple[tuple[SiteReport, ...], tuple[StatisticsRecord, ...]]:
    """The norms of ``model``, their health, and what `fold` would decide; what they know about values. Uses it up."""
    return driver.inspect(OnnxGraph(model, inference))
