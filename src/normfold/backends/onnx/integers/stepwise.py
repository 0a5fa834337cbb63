"""A plan in one of its forms with a check beside each step: what it makes of the codes that it reads, and should.

Two forms of a plan round sums in another order, here and there to the next step. A network can make anything of that
over its layers, so that their outputs say little. Step by step, on the same codes, they differ by a step at most.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import onnx_ir as ir

from normfold.backends.onnx.integers.emitter import Emitter
from normfold.backends.onnx.integers.simulated import SimulatedEmitter
from normfold.core.integers.ranges import STEPS
from normfold.core.integers.steps import Step

OUTPUT: Final = "normfold/deviations"
"""The output of the checks: by step, the largest deviation in steps of its codes."""


class _Twin(SimulatedEmitter):
    """Writes each step of ``real`` once more, in floating point, on the codes that the step reads."""

    def __init__(self, real: Emitter) -> None:
        super().__init__(real.model, real.plan)
        self.share(real)
        self._real = real
        self._read: dict[str, ir.Value] = {}

    def float_of(self, value: str) -> ir.Value:
        """``value`` as the codes of the real network say."""
        if value not in self._read:
            self._read[value] = self._real.dequantized(value)
        return self._read[value]

    def deviation(self, step: Step) -> ir.Value:
        """How far ``step`` is off, at the element where it is furthest, in steps of its codes: ``[1]``."""
        self._label = f"{step.name}/checked"
        wanted = self.expected(step)
        if step.output not in self.plan.codes:
            return self._relative(self._real.float_of(step.output), wanted)
        codes = self.codes_of(step.output)
        unit = self.constant(np.asarray(codes.scale, np.float32), "scale")
        low, high = (
            self.constant(np.asarray(end, np.float32), "end") for end in (-codes.zero, codes.steps - codes.zero)
        )
        counted = self.node("Clip", [self.node("Div", [wanted, unit]), low, high])
        made = self.node("Div", [self.float_of(step.output), unit])
        return self._largest(self.node("Sub", [made, counted]))

    def _relative(self, made: ir.Value, wanted: ir.Value) -> ir.Value:
        """In steps of which as many as codes have reach to the largest element."""
        reach = self.node("Add", [self._largest(wanted), self.constant(np.asarray(1e-30, np.float32))])
        share = self.node("Div", [self._largest(self.node("Sub", [made, wanted])), reach])
        return self.node("Mul", [share, self.constant(np.asarray(STEPS, np.float32))])

    def _largest(self, value: ir.Value) -> ir.Value:
        return self.reshaped(self.node("ReduceMax", [self.node("Abs", [value])]), [1])


def emit_stepwise(real: Emitter) -> tuple[ir.Model, list[str], str]:
    """The model of ``real`` with one more output, the names of the steps that it tells about, and its name."""
    real.emit()
    twin, steps = _Twin(real), [step for step in real.plan.network.steps if step in real.plan.integer]
    found = twin.node("Concat", [twin.deviation(step) for step in steps], {"axis": 0})
    found.name, found.type, found.shape = OUTPUT, ir.TensorType(ir.DataType.FLOAT), ir.Shape([len(steps)])
    real.model.graph.outputs.append(found)
    return real.settle(), [step.name for step in steps], OUTPUT
