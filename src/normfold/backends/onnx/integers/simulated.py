"""A plan in floating point, rounded to the steps of its codes: what its integer forms are verified against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from normfold.backends.onnx.integers.emitter import Emitter
from normfold.core.integers import steps
from normfold.core.integers.plan import Plan
from normfold.core.integers.ranges import Codes
from normfold.core.integers.steps import Linear, Step


class SimulatedEmitter(Emitter):
    """Values with codes exist twice: as they are, and rounded to their codes, which is what integer steps read."""

    def __init__(self, model: ir.Model, plan: Plan) -> None:
        super().__init__(model, plan)
        self._rounded: dict[str, ir.Value] = {}
        self._on_codes = False

    def integer(self, step: Step) -> None:
        """Write ``step`` as it is in floating point, on rounded values, and round what comes out."""
        made = self.expected(step)
        if step.output in self.plan.codes:
            made = self._round(made, self.codes_of(step.output))
            self._rounded[step.output] = made
        self.give(step.output, made)

    def expected(self, step: Step) -> ir.Value:
        """What ``step`` makes of codes, not rounded."""
        self._on_codes = True
        made = self.floating(_with_coded_bounds(step, self.plan.codes))
        self._on_codes = False
        return made

    @property
    def names(self) -> dict[str, str]:
        """What the values with codes are called in the model that is written."""
        return {value: made.name for value, made in self._rounded.items() if made.name}

    def dequantized(self, value: str) -> ir.Value:
        """There is no value of codes alone."""
        raise KeyError(value)

    def float_of(self, value: str) -> ir.Value:
        """``value``, rounded where a step that runs on codes reads it."""
        if not self._on_codes:
            return super().float_of(value)
        if value not in self._rounded:
            self._rounded[value] = self._round(super().float_of(value), self.codes_of(value))
        return self._rounded[value]

    def weight(self, step: Linear) -> tuple[ir.Value, ir.Value]:
        """What the codes of the weight and of the bias stand for."""
        coded = self.plan.weights.get(step) if self._on_codes else None
        if coded is None:
            return super().weight(step)
        unit = coded.scale.astype(np.float64) * self.codes_of(step.inputs[0]).scale
        weight, bias = coded.values(), coded.bias * unit
        return self.constant(weight.astype(np.float32), "weight"), self.constant(bias.astype(np.float32), "bias")

    def _round(self, value: ir.Value, codes: Codes) -> ir.Value:
        scale = self.constant(np.asarray(codes.scale, np.float32), "scale")
        low, high = (
            self.constant(np.asarray(end, np.float32), "end") for end in (-codes.zero, codes.steps - codes.zero)
        )
        counted = self.node("Round", [self.node("Div", [value, scale])])
        return self.node("Mul", [self.node("Clip", [counted, low, high]), scale])


def _with_coded_bounds(step: Step, codes: Mapping[str, Codes]) -> Step:
    """Bounds by channel rounded to their codes, as they act on codes."""
    if not isinstance(step, steps.ChannelClamp):
        return step
    found = codes[step.output]
    low, high = ((found.code(bound).astype(np.float64) - found.zero) * found.scale for bound in (step.low, step.high))
    return replace(step, low=low, high=high)


def emit_observable(model: ir.Model, plan: Plan) -> tuple[ir.Model, dict[str, str]]:
    """The same as `emit_simulated`, and what the values with codes are called in it."""
    emitter = SimulatedEmitter(model, plan)
    return emitter.write(), emitter.names


def emit_simulated(model: ir.Model, plan: Plan) -> ir.Model:
    """``model`` computing in floating point what ``plan`` computes on codes; uses it up."""
    return SimulatedEmitter(model, plan).write()
