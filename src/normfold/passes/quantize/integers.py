"""The recipe for eight bits: activations as unsigned bytes, weights as signed bytes by channel."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
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
from normfold.core.integers.form import integer_form, portable_form
from normfold.core.integers.plan import Plan
from normfold.core.integers.ranges import min_max
from normfold.core.integers.steps import SHARING, Floating, Linear, Network, Sigmoid, Step, Transposed
from normfold.core.integers.weights import FULL, REDUCED, Coder
from normfold.errors import UsageError
from normfold.models.dataset import Dataset
from normfold.models.source import runnable
from normfold.passes.quantize.dialects import dialect, grid_of
from normfold.passes.quantize.figures import Choice, Format, NodeFigures
from normfold.passes.quantize.noise import signal_to_noise
from normfold.passes.quantize.outputs import Loss, run, split
from normfold.passes.quantize.placement import quicker_in_floats, reason
from normfold.passes.quantize.recipe import Mixture, Quantized, Stepwise, Work
from normfold.passes.quantize.statistics import Gathered, gathered, recorded
from normfold.passes.quantize.tuning import Tuner, Tuning, with_exact_gelus
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
CHOSEN: Final = "it loses accuracy on codes"
"""Why an operation stays in floating point that the search for the budget put back."""


def integers(work: Work) -> Sequence[Quantized]:
    """The model in each format asked for; empty where no operation of it has an integer form."""
    folded = work.fresh()
    _check_opset(folded)
    narrow_tables(folded)
    graph = OnnxGraph(folded, CHECKER.infer)
    plain = read_network(graph)
    network = integer_form(plain) if dialect(work.ep).for_cpu else portable_form(plain)
    model = graph.model
    if not any(isinstance(step, Linear | Transposed) for step in network.steps):
        return []
    found = _statistics(work, model, plain, network)
    floats = quicker_in_floats(network, work.ep, work.formats[-1])
    start = Tuning(network, found.seen, min_max, Coder(_largest(work)), floats, grid_of(work.ep, work.width))
    made = _Made.of(work, model, start, found)
    return made.quantized(frozenset()) if made.tuning.plan().weights else []


@dataclass(frozen=True, slots=True)
class _Made:
    """A network whose codes are chosen, and all models that can be made of it."""

    work: Work
    model: onnx_ir.Model
    tuning: Tuning
    choices: tuple[Choice, ...]
    loss: Loss
    """Holds what ``model`` answers on ``held_out``."""
    held_out: Dataset | None

    @classmethod
    def of(cls, work: Work, model: onnx_ir.Model, start: Tuning, found: Gathered) -> _Made:
        """With the parts of the recipe that bring outputs on held-out samples nearest to those of ``model``."""
        held_out = work.compared if work.calibration is None else split(work.calibration)[1]
        made = cls(work, model, start, (), Loss(), held_out)
        if held_out is not None:
            with runnable(model.clone()) as file:
                run(work.evaluator, file, held_out, made.loss.expect, work.custom_ops)
        if work.calibration is None:
            # Nothing tells what the form on codes loses.
            return replace(made, tuning=with_exact_gelus(start))
        tuner = Tuner(made.distance, work.progress, start)
        tuner.run(found.spreads, _largest(work))
        return replace(made, tuning=tuner.best, choices=tuple(tuner.choices))

    def distance(self, plan: Plan) -> float:
        """Noise over signal at the outputs of ``plan``."""
        assert self.held_out is not None  # noqa: S101 - asked for only where there are samples
        with runnable(EMITTERS[self.work.formats[-1]](self.model.clone(), plan).write()) as file:
            return self.loss.of(self.work.evaluator, file, self.held_out, self.work.custom_ops)

    def plan(self, floating: frozenset[str]) -> Plan:
        """With the steps named in floating point."""
        return self.tuning.plan({step: CHOSEN for step in self.tuning.network.steps if step.name in floating})

    def noise(self, plan: Plan, data: Dataset) -> dict[str, float]:
        """Signal to quantisation noise by the name of the step, in decibels; of several of a name the last."""
        by_value = signal_to_noise(self.work, self.model, plan, data)
        return {step.name: by_value[step.output] for step in plan.network.steps if step.output in by_value}

    def quantized(self, floating: frozenset[str]) -> list[Quantized]:
        """The model in each format."""
        plan = self.plan(floating)
        nodes = tuple(_figures(step, plan, self.work) for step in plan.network.steps)
        simulation = emit_simulated(self.model.clone(), plan)
        mixture = None
        if self.held_out is not None:
            names = dict.fromkeys(step.name for step in plan.network.steps if step in plan.integer and _rounds(step))
            mixture = Mixture(tuple(names), lambda some: self.distance(self.plan(some)), self.quantized)
        return [
            Quantized(
                EMITTERS[form](self.model.clone(), plan).write(),
                self.work.width,
                form,
                nodes,
                simulation.clone(),
                BUDGET,
                rewritten=partial(_rewritten, self.model, plan.network),
                approximate=any(isinstance(step, Sigmoid) and step.operator == "Gelu" for step in plan.network.steps),
                stepwise=partial(_stepwise, form, self.model, plan),
                choices=self.choices,
                mixture=mixture,
                noise=None if self.held_out is None else partial(self.noise, plan, self.held_out),
            )
            for form in self.work.formats
        ]


def _rounds(step: Step) -> bool:
    """Whether ``step`` makes codes anew; others move the codes that there are."""
    return not isinstance(step, SHARING)


def _rewritten(model: onnx_ir.Model, network: Network) -> onnx_ir.Model:
    return emit_simulated(model.clone(), Plan(network, frozenset(), {}, {}))


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
        return Gathered(recorded(plain, network, work.records))
    work.progress("calibrating")
    return gathered(work, model.clone(), network, split(work.calibration)[0])


def _largest(work: Work) -> int:
    """The largest code of a weight."""
    return REDUCED if work.ep == "cpu" and saturates() else FULL


def _figures(step: Step, plan: Plan, work: Work) -> NodeFigures:
    integer = step in plan.integer
    because = ""
    if not integer:
        because = reason(step, work.ep) if isinstance(step, Floating) else plan.kept.get(step, "its neighbours are")
    return NodeFigures(step.name, step.operator, work.width if integer else "fp32", because)
