"""The recipe for eight bits: activations as unsigned bytes, weights as signed bytes by channel."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

import onnx_ir

from normfold.backends.onnx import OnnxGraph
from normfold.backends.onnx.integers.contrib import ContribEmitter
from normfold.backends.onnx.integers.emitter import Emitter
from normfold.backends.onnx.integers.qdq import QdqEmitter
from normfold.backends.onnx.integers.read import read_network
from normfold.backends.onnx.integers.simulated import emit_simulated
from normfold.backends.onnx.integers.stepwise import emit_stepwise
from normfold.backends.onnx.integers.tables import narrow_tables
from normfold.core.integers.form import integer_form
from normfold.core.integers.plan import Plan
from normfold.core.integers.ranges import min_max
from normfold.core.integers.steps import Floating, Linear, Network, Step, Transposed
from normfold.core.integers.weights import FULL, REDUCED, Coder
from normfold.errors import UsageError
from normfold.models.source import runnable
from normfold.passes.quantize.figures import Choice, Format, NodeFigures
from normfold.passes.quantize.outputs import Loss, run, split
from normfold.passes.quantize.recipe import Quantized, Stepwise, Work
from normfold.passes.quantize.statistics import Gathered, gathered, recorded
from normfold.passes.quantize.tuning import Tuner, Tuning
from normfold.runtime import CHECKER
from normfold.runtime.instructions import saturates

EMITTERS: Final[Mapping[Format, Callable[[onnx_ir.Model, Plan], Emitter]]] = {
    "qdq": QdqEmitter,
    "contrib": ContribEmitter,
}
OPSET: Final = 13
"""The first in which DequantizeLinear has an axis."""
BUDGET: Final = 0.05
"""Deviation from the simulation, relative to the output's range: sums are rounded in another order, here and there to
the next step, and steps add up over layers."""


def integers(work: Work) -> Sequence[Quantized]:
    """The model in each format asked for; empty where no operation of it has an integer form."""
    folded = work.fresh()
    _check_opset(folded)
    narrow_tables(folded)
    graph = OnnxGraph(folded, CHECKER.infer)
    plain = read_network(graph)
    network = integer_form(plain)
    model = graph.model
    if not any(isinstance(step, Linear | Transposed) for step in network.steps):
        return []
    found = _statistics(work, model, plain, network)
    plan, choices = _chosen(work, model, network, found)
    if not plan.weights:
        return []
    network = plan.network
    nodes = tuple(_figures(step, plan) for step in network.steps)
    simulation = emit_simulated(model.clone(), plan)
    return [
        Quantized(
            EMITTERS[form](model.clone(), plan).write(),
            "int8",
            form,
            nodes,
            simulation.clone(),
            BUDGET,
            stepwise=partial(_stepwise, form, model, plan),
            choices=choices,
        )
        for form in work.formats
    ]


def _stepwise(form: Format, model: onnx_ir.Model, plan: Plan) -> Stepwise:
    return emit_stepwise(EMITTERS[form](model.clone(), plan))


def _check_opset(model: onnx_ir.Model) -> None:
    """Raise `UsageError` ``nothing-to-quantize`` where the model's opset has no scales by channel."""
    opset = model.opset_imports.get("", model.opset_imports.get("ai.onnx", OPSET))
    if opset < OPSET:
        message = f"The model is in opset {opset}; weights in eight bits by channel need {OPSET}."
        raise UsageError("nothing-to-quantize", message, "Raise it first: onnx.version_converter.convert_version.")


def _statistics(work: Work, model: onnx_ir.Model, plain: Network, network: Network) -> Gathered:
    if work.calibration is None:
        return Gathered(recorded(plain, work.records))
    work.progress("calibrating")
    return gathered(work, model.clone(), network, split(work.calibration)[0])


def _chosen(work: Work, model: onnx_ir.Model, network: Network, found: Gathered) -> tuple[Plan, tuple[Choice, ...]]:
    """The plan whose outputs, on held-out samples, are nearest to those of ``model``, and what was tried."""
    largest = REDUCED if work.ep == "cpu" and saturates() else FULL
    start = Tuning(network, found.seen, min_max, Coder(largest))
    if work.calibration is None:
        return start.plan(), ()
    held_out = split(work.calibration)[1]
    loss = Loss()
    with runnable(model.clone()) as file:
        run(work.evaluator, file, held_out, loss.expect, work.custom_ops)

    def of(plan: Plan) -> float:
        with runnable(EMITTERS[work.formats[-1]](model.clone(), plan).write()) as file:
            return loss.of(work.evaluator, file, held_out, work.custom_ops)

    tuner = Tuner(of, work.progress, start)
    tuner.run(found.spreads, largest)
    return tuner.best.plan(), tuple(tuner.choices)


def _figures(step: Step, plan: Plan) -> NodeFigures:
    integer = step in plan.integer
    because = ""
    if not integer:
        because = step.because if isinstance(step, Floating) else plan.kept.get(step, "its neighbours are")
    return NodeFigures(step.name, step.operator, "int8" if integer else "fp32", because)
