"""Folding an ``nn.Module``: compared in PyTorch itself, in this process."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from normfold.backends.torch import TorchGraph, explore, shared_memory
from normfold.core import driver
from normfold.models.data import UserInputs
from normfold.models.module.duplicate import duplicate
from normfold.models.module.example import Example, call, to_array
from normfold.models.module.untouched import untouched
from normfold.passes.fold import module as module_pass
from normfold.passes.fold.module import FoldedModule
from normfold.passes.fold.selection import Selection
from normfold.passes.rewritten import Rewritten
from normfold.proof.comparison import Setup, verify
from normfold.proof.modules import InProcess, ModuleRunner, RunnableModule, precision
from normfold.proof.probes import InputSpec
from normfold.records import Pair, Progress, Refusal, SiteReport, StatisticsRecord, Verification, silent
from normfold.runtime import Failed


@untouched()
def inspect(
    module: nn.Module, example: Example, progress: Progress
) -> tuple[tuple[SiteReport, ...], tuple[StatisticsRecord, ...]]:
    """Every norm, its health, and what would be decided; what the norms know about values."""
    progress("tracing")
    run = explore(duplicate(module), example.args, example.kwargs)
    progress("inspecting")
    return driver.inspect(TorchGraph(run, shared_memory(module)))


@dataclass(slots=True)
class ModuleFold:
    """One fold of ``module``, which is left as it is: a `Source` for the loop."""

    module: nn.Module
    example: Example
    selection: Selection
    seed: int = 0
    progress: Progress = silent
    source: nn.Module | None = None
    """The copy that was traced last, whose state is that of one run."""

    def rewritten(self, dropped: Mapping[str, Refusal]) -> Rewritten[FoldedModule]:
        """Trace a fresh copy, and fold another."""
        self.source = duplicate(self.module)
        return module_pass.fold(self.module, self.source, self.example, self.selection, dropped, self.progress)

    def compared(self, attempt: Rewritten[FoldedModule]) -> Verification:
        """Run ``attempt`` beside the source, on the example's sizes and on twice the batch."""
        if self.source is None:
            raise ValueError("compared before rewritten")
        self.progress("comparing with the source")
        source, result = self.source, attempt.model.module
        if attempt.model.graph.trace.stateful:
            result = copy.deepcopy(result)
        origins = attempt.model.graph.origins()
        proof = self._compared(self.example, source, RunnableModule(result, origins), attempt.pairs)
        larger = self.example.twice()
        if proof.status != "equivalent" or larger is None or isinstance(call(source, larger), Failed):
            return proof
        second = self._compared(larger, source, RunnableModule(result, origins), attempt.pairs)
        return proof if second.status == "equivalent" else second

    def _compared(
        self, example: Example, source: nn.Module, result: RunnableModule, pairs: Sequence[Pair]
    ) -> Verification:
        arrays = {f"input {k}": to_array(tensor) for k, tensor in enumerate(example.tensors())}
        setup = Setup(
            [InputSpec(name, array.dtype, array.shape) for name, array in arrays.items()],
            UserInputs(arrays=arrays),
            seed=self.seed,
            precision=precision(source),
            random=any(module.training for module in source.modules()),
        )
        return verify(InProcess(ModuleRunner(example)), RunnableModule(source), result, setup, pairs)
