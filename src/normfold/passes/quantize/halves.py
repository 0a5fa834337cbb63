"""The recipes for sixteen bits: half precision and bfloat16, where no value can grow too large for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import onnx_ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from normfold.backends.onnx import OnnxGraph
from normfold.backends.onnx.bounds import bounds
from normfold.backends.onnx.halves import emulated, halve
from normfold.passes.quantize.figures import NodeFigures, Width
from normfold.passes.quantize.recipe import Quantized, Work
from normfold.passes.quantize.seen import observed
from normfold.runtime import CHECKER

TYPES: Final[Mapping[Width, onnx_ir.DataType]] = {
    "fp16": onnx_ir.DataType.FLOAT16,
    "bf16": onnx_ir.DataType.BFLOAT16,
}
BUDGETS: Final[Mapping[Width, float]] = {"fp16": 0.02, "bf16": 0.15}
"""Deviation from the folded model, relative to the output's range, that rounding to 11 or to 8 bits explains."""
BEYOND: Final = 4.0
"""How many times larger than anything seen a value may become."""
SIGMAS: Final = 8.0
"""Standard deviations from the mean that a value may have whose mean and deviation a folded norm knew."""


def halves(work: Work) -> Sequence[Quantized]:
    """The model in sixteen bits; empty where no operation of it can compute in them."""
    graph = OnnxGraph(work.fresh(), CHECKER.infer)
    found = halve(graph, TYPES[work.width], bounds(graph, _known(work, graph)))
    if all(found.because.values()):
        return []
    RemoveUnusedNodesPass()(graph.model)
    nodes = tuple(
        NodeFigures(name, found.operators[name], "fp32" if because else work.width, because)
        for name, because in found.because.items()
    )
    # The CPU's provider has no kernels of either: of half precision ONNX Runtime makes float32, without rounding.
    emulation = graph.model.clone()
    emulated(emulation, TYPES[work.width])
    budget = BUDGETS[work.width]
    return [Quantized(graph.model, work.width, "qdq", nodes, budget=budget, emulation=emulation, name=work.width)]


def _known(work: Work, graph: OnnxGraph) -> dict[str, float]:
    """What bounds values besides weights: what was seen of them, or what norms knew."""
    known = {}
    for record in work.records:
        pairs = zip(record.mean, record.deviation, strict=True)
        known[record.value] = max(abs(mean) + SIGMAS * deviation for mean, deviation in pairs)
    if work.calibration is None:
        return known
    work.progress("calibrating")
    values = [*graph.model.graph.inputs, *(value for node in graph.model.graph for value in node.outputs)]
    names = [str(value.name) for value in values if value.name and graph.dtype(value) == onnx_ir.DataType.FLOAT]
    seen = observed(work, work.fresh(), work.calibration, dict.fromkeys(names))
    # What was seen says more than what a norm knew of the data that it was trained on.
    return known | {
        name: BEYOND * max(abs(float(end)) for end in arrays["extent"][:2])
        for name, arrays in seen.items()
        if arrays["extent"][4]
    }
