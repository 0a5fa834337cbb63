"""A plan with standard operators: every step between DequantizeLinear and QuantizeLinear, which runtimes fuse."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
import onnx_ir as ir

from normfold.backends.onnx.integers.emitter import MICROSOFT, Emitter, interleaved, widened
from normfold.core.integers import steps
from normfold.core.integers.plan import Plan
from normfold.core.integers.ranges import BYTES, STEPS, Codes
from normfold.core.integers.steps import Linear, Step
from normfold.core.integers.weights import WeightCodes

LONG: Final = 21
"""The first opset whose quantisers have codes of sixteen bits; before it, ONNX Runtime has them."""


class QdqEmitter(Emitter):
    """Every value with codes is held as codes, and dequantised anew by each step that reads it."""

    def __init__(self, model: ir.Model, plan: Plan) -> None:
        super().__init__(model, plan)
        self._codes: dict[str, ir.Value] = {}
        self._reader: Step | None = None
        self._plain = plan.grid == BYTES
        """Whether clamps cost nothing, or are a maximum and a minimum of codes."""
        opset = model.opset_imports.get("", 0)
        self._domain = MICROSOFT if plan.grid.steps > STEPS and opset < LONG else ""

    def integer(self, step: Step) -> None:
        """Write ``step`` between quantisers; bounds by channel act on the codes themselves."""
        if isinstance(step, steps.ChannelClamp) and self._plain:
            self._codes[step.output] = self._bounded(step, self.codes(step.inputs[0]))
            return
        if isinstance(step, steps.Widen):
            source = step.inputs[0]
            self._codes[step.output] = widened(self, step, self.codes(source), self._step_of(source)[1])
            return
        self._reader = step
        made = self._written(step)
        self._reader = None
        if step.output in self.plan.codes:
            self._codes[step.output] = self._cut_off(step, self._quantized(made, step.output))
        else:
            self.give(step.output, made)

    def _written(self, step: Step) -> ir.Value:
        if isinstance(step, steps.Clamped):
            free = replace(step, low=-np.inf, high=np.inf)
            if isinstance(step, Linear):
                made = self._linear(step)
            else:
                made = self.floating(replace(free, scale=np.ones(())) if isinstance(free, steps.Affine) else free)
            return made if self._plain else self.clamped(step, made)
        if isinstance(step, steps.Interleave):
            return self._interleaved(step)
        return self.floating(replace(step, factor=1.0) if isinstance(step, steps.Sigmoid) else step)

    def _linear(self, step: Linear) -> ir.Value:
        free = replace(step, low=-np.inf, high=np.inf)
        if step.window is not None or self.plan.network.rank(step.inputs[0]) == 2:
            return self.floating(free)
        # The bias of a product over more than two axes would be an addition of its own.
        x = self.float_of(step.inputs[0])
        weight, bias = self.weight(step)
        rows = self.reshaped(x, [-1, step.weight.shape[1]])
        made = self.node("Gemm", [rows, weight, bias], {"transB": 1})
        return self.unrolled(made, step.inputs[0], x, len(step.weight))

    def _interleaved(self, step: steps.Interleave) -> ir.Value:
        """With the channels last, as ONNX Runtime has them around: in their own order each byte would move alone."""
        rank = len(step.strides) + 2
        there, back = [0, *range(2, rank), 1], [0, rank - 1, *range(1, rank - 1)]
        phases = [self.node("Transpose", [self.float_of(value)], {"perm": there}) for value in step.inputs]
        return self.node("Transpose", [interleaved(self, step, phases, last=True)], {"perm": back})

    def codes(self, value: str) -> ir.Value:
        """The codes of ``value``."""
        if value not in self._codes:
            self._codes[value] = self._quantized(super().float_of(value), value)
        return self._codes[value]

    def dequantized(self, value: str) -> ir.Value:
        """``value`` in floating point."""
        return self.node("DequantizeLinear", [self.codes(value), *self._step_of(value)], domain=self._domain)

    def float_of(self, value: str) -> ir.Value:
        """``value`` in floating point; for a step that runs on codes, dequantised for it alone."""
        if self._reader is None:
            return super().float_of(value)
        factor = self._reader.factor if isinstance(self._reader, steps.Sigmoid) else 1.0
        factor = float(self._reader.scale) if isinstance(self._reader, steps.Affine) else factor
        return self.node("DequantizeLinear", [self.codes(value), *self._step_of(value, factor)], domain=self._domain)

    def weight(self, step: Linear) -> tuple[ir.Value, ir.Value]:
        """The weight and the bias of a step, dequantised from their codes where it runs on codes."""
        coded = self._coded()
        if coded is None:
            return super().weight(step)
        unit = (coded.scale.astype(np.float64) * self.codes_of(step.inputs[0]).scale).astype(np.float32)
        scale, zero = self.constant(coded.scale, "scale"), self.constant(np.zeros(coded.scale.shape, np.int8), "zero")
        weight = self.node("DequantizeLinear", [self.constant(coded.codes, "weight"), scale, zero], {"axis": 0})
        held = [self.constant(coded.bias, "bias"), self.constant(unit, "scale")]
        return weight, self.node("DequantizeLinear", held, {"axis": 0})

    def _coded(self) -> WeightCodes | None:
        return None if self._reader is None else self.plan.weights.get(self._reader)

    def _step_of(self, value: str, factor: float = 1.0) -> tuple[ir.Value, ir.Value]:
        codes = self.codes_of(value)
        scale = self.constant(np.asarray(codes.scale * factor, np.float32), "scale")
        if self.plan.grid.symmetric:
            return scale, self.constant(np.zeros((), np.int8 if codes.steps == STEPS else np.int16), "zero")
        return scale, self.constant(np.asarray(codes.zero, np.uint8 if codes.steps == STEPS else np.uint16), "zero")

    def _quantized(self, made: ir.Value, value: str) -> ir.Value:
        return self.node("QuantizeLinear", [made, *self._step_of(value)], domain=self._domain)

    def _cut_off(self, step: Step, made: ir.Value) -> ir.Value:
        if not isinstance(step, steps.Clamped) or not self._plain:
            return made
        codes = self.codes_of(step.output)
        low, high = (codes.code(np.asarray(bound)) for bound in (step.low, step.high))
        return self._between(made, low, high)

    def _bounded(self, step: steps.ChannelClamp, made: ir.Value) -> ir.Value:
        codes: Codes = self.codes_of(step.output)
        shape = [] if step.low.size == 1 else [-1, *[1] * (-1 - step.axis)]
        return self._between(made, *(codes.code(bound).reshape(shape) for bound in (step.low, step.high)))

    def _between(self, made: ir.Value, low: np.ndarray, high: np.ndarray) -> ir.Value:
        if (low > 0).any():
            made = self.node("Max", [made, self.constant(low, "low")])
        if (high < STEPS).any():
            made = self.node("Min", [made, self.constant(high, "high")])
        return made
