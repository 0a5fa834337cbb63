"""`inspect`: the norms of a model, and what `fold` would decide."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from normfold.backends.onnx.dequantize import quantization_of
from normfold.limits import limited
from normfold.models.source import OnnxModel, module_of, name_of, onnx_source
from normfold.passes.fold import onnx_model
from normfold.records import (
    Decision,
    Progress,
    Quantization,
    SiteReport,
    StatisticsRecord,
    counts,
    silent,
    site_record,
    statistics_record,
)
from normfold.report.blocks import Blocks, Detail, Heading
from normfold.report.decisions import norm_blocks, quantization_blocks
from normfold.report.result import Result
from normfold.runtime import CHECKER

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True, repr=False)
class InspectResult(Result):
    """The norms of a model in topological order, and what they know about its values."""

    norms: tuple[SiteReport, ...]
    records: tuple[StatisticsRecord, ...] = ()
    source: str | None = None
    """The model, as it was named; None for one in memory."""
    quantization: Quantization | None = None
    """What is quantised; None where nothing is."""

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """What `fold` would decide."""
        return tuple(norm.would for norm in self.norms)

    def report(self, detail: Detail = Detail.NORMAL) -> Blocks:
        """A row for every norm with the decision that `fold` would take, and the counts."""
        named = self.source is not None and detail > Detail.SUMMARY
        heading = (Heading(str(self.source)),) if named else ()
        return (*heading, *norm_blocks(self.norms, detail), *quantization_blocks(self.quantization, detail))

    def document(self) -> dict[str, Any]:
        """The norms; the counts say what `fold` would reach."""
        return {
            "source": self.source,
            "norms": [site_record(norm) for norm in self.norms],
            "counts": counts(self.decisions),
            "records": [statistics_record(record) for record in self.records],
            "quantization": None if self.quantization is None else self.quantization.record(),
        }


def inspect(
    model: OnnxModel | nn.Module,
    example_inputs: Any = None,
    *,
    time_limit: float | None = None,
    memory_limit: int | None = None,
    progress: Progress = silent,
) -> InspectResult:
    """The norms of ``model``, the health of their statistics, and what `fold` would decide.

    Args:
        model: a path, a ``ModelProto``, an ``onnx_ir.Model`` or an ``nn.Module``; left as it is.
        example_inputs: what an ``nn.Module`` is traced with, as for `fold`; ONNX models need none.
        time_limit: seconds for the whole call; by default 15 minutes. For a module both limits hold between
            its forward passes.
        memory_limit: bytes that each process may take; by default what model and inputs of their size need.
        progress: called with what is being done.

    Raises:
        NormfoldError: the model cannot be read.
    """
    with limited(time_limit, memory_limit):
        module = module_of(model)
        if module is not None:
            from normfold.models.module.example import Example
            from normfold.pipeline import fold_module

            return InspectResult(*fold_module.inspect(module, Example.of(example_inputs), progress))
        CHECKER.start()
        progress("reading")
        copy = onnx_source(model).fresh()
        progress("inspecting")
        quantization = quantization_of(copy)
        return InspectResult(*onnx_model.inspect(copy, CHECKER.infer), name_of(model), quantization)
