"""Folding an ``nn.Module``: trace a copy, fold, write into another copy, and prove it in PyTorch itself."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from normfold.backends.torch import Change, TorchGraph, Trace, shared_memory, trace, write
from normfold.core import driver as engine
from normfold.core.premises import VERIFICATION_FAILED
from normfold.errors import UsageError
from normfold.models.data import UserInputs
from normfold.models.module.example import Example, call, to_array
from normfold.proof.comparison import Comparison, Setup
from normfold.proof.modules import InProcess, ModuleRunner, RunnableModule, precision
from normfold.proof.probes import InputSpec
from normfold.records import Decision, Pair, Progress, Refusal, SiteReport, StatisticsRecord, Verification, silent
from normfold.runtime import Failed


@dataclass(frozen=True, slots=True)
class Folded:
    """What became of a module."""

    module: nn.Module
    decisions: tuple[Decision, ...]
    change: Change
    verification: Verification


def fold(
    module: nn.Module, inputs: Any, how: Literal["prove", "skip", "dry"], *, in_place: bool = False, **options: Any
) -> Folded:
    """Fold ``module``, run on ``inputs``, and compare the two, unless ``how`` is to skip that or only to decide."""
    job = Job(module, Example.of(inputs), in_place=in_place and how != "dry", **options)
    if how == "prove":
        return job.proven()
    return job.unproven("not asked for" if how == "skip" else "a dry run compares nothing")


def inspect(
    module: nn.Module, inputs: Any, progress: Progress
) -> tuple[tuple[SiteReport, ...], tuple[StatisticsRecord, ...]]:
    """Every norm, its health, and what would be decided; what the norms know about values."""
    return engine.inspect(TorchGraph(Job(module, Example.of(inputs), progress=progress).trace(), shared_memory(module)))


@dataclass(frozen=True, slots=True)
class Job:
    """One folding of ``module``, which is left alone unless ``in_place``."""

    module: nn.Module
    example: Example
    only: Sequence[str] = ()
    skip: Sequence[str] = ()
    seed: int = 0
    in_place: bool = False
    progress: Progress = silent

    def unproven(self, because: str) -> Folded:
        """Fold without a comparison."""
        graph, folding = self._fold(copied(self.module), {})
        return self._done(graph, folding.decisions, Verification("skipped", because=because))

    def proven(self) -> Folded:
        """Fold; where the result differs, drop the fold at which it parts from the source, and fold anew.

        ``verification`` says whether the result is equivalent; where it is not, ``module`` is not to be handed over.
        """
        dropped: dict[str, Refusal] = {}
        source = copied(self.module)
        while True:
            graph, folding = self._fold(source, dropped)
            result = copy.deepcopy(self.module)
            change = write(graph, result)
            self.progress("comparing with the source")
            proof = self._prove(source, result, graph, folding.pairs)
            decisions = folding.decisions
            at_fault = proof.first_divergence
            changed = {decision.site for decision in decisions if decision.outcome != "kept"}
            if proof.status == "different" and at_fault in changed:
                because = f"With it folded, the module differs from its source: {proof.because}."
                dropped[str(at_fault)] = Refusal(VERIFICATION_FAILED, because)
                source = copied(self.module)
            elif self.in_place and proof.status == "equivalent":
                return self._done(graph, decisions, proof)
            else:
                return Folded(result, decisions, change, proof)

    def _done(self, graph: TorchGraph, decisions: tuple[Decision, ...], proof: Verification) -> Folded:
        result = self.module if self.in_place else copy.deepcopy(self.module)
        return Folded(result, decisions, write(graph, result), proof)

    def trace(self, module: nn.Module | None = None) -> Trace:
        """Run ``module``, or a copy of the job's, and write down what it does."""
        self.progress("tracing")
        return trace(module or copied(self.module), self.example.args, self.example.kwargs)

    def _fold(self, source: nn.Module, dropped: Mapping[str, Refusal]) -> tuple[TorchGraph, engine.Folding]:
        graph = TorchGraph(self.trace(source), shared_memory(self.module))
        self.progress("folding")
        return graph, engine.fold(graph, only=self.only, skip=self.skip, exclude=dropped)

    def _prove(self, source: nn.Module, result: nn.Module, graph: TorchGraph, pairs: Sequence[Pair]) -> Verification:
        if graph.trace.stateful:
            result = copy.deepcopy(result)
        proof = self._compare(self.example, source, result, graph, pairs)
        larger = self.example.twice()
        if proof.status != "equivalent" or larger is None or isinstance(call(source, larger), Failed):
            return proof
        second = self._compare(larger, source, result, graph, pairs)
        return proof if second.status == "equivalent" else second

    def _compare(
        self, example: Example, source: nn.Module, result: nn.Module, graph: TorchGraph, pairs: Sequence[Pair]
    ) -> Verification:
        feeds = {f"input {k}": to_array(tensor) for k, tensor in enumerate(example.tensors())}
        setup = Setup(
            [InputSpec(name, array.dtype, array.shape) for name, array in feeds.items()],
            UserInputs(arrays=feeds),
            seed=self.seed,
            precision=precision(source),
            random=any(module.training for module in source.modules()),
        )
        comparison = Comparison(InProcess(ModuleRunner(example)), setup)
        comparison.begin(RunnableModule(source))
        return comparison.finish(RunnableModule(result, graph.origins()), pairs)


def copied(module: nn.Module) -> nn.Module:
    """A copy of ``module``, so that running it leaves no trace in the user's own.

    Raises:
        UsageError: it has no numbers, its operations cannot be seen, or it cannot be copied.
    """
    check(module)
    try:
        return copy.deepcopy(module)
    except Exception as error:
        # A class's own __deepcopy__, or a tensor that is the result of a computation.
        hint = "A weight that is computed (torch.nn.utils.weight_norm) has to be baked first."
        raise UsageError("bad-input", f"The module cannot be copied: {error}", hint) from error


def check(module: nn.Module) -> None:
    """Refuse modules that have no numbers, or whose operations cannot be seen."""
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if is_lazy(tensor):
            raise UsageError("bad-input", f"{name} is not initialised: run the module once first.")
        if tensor.is_meta:
            hint = "Load the weights first: module.to_empty(device='cpu'), then load_state_dict."
            raise UsageError("meta-tensors", f"{name} is on the meta device: it has a shape, but no numbers.", hint)
    for name, inner in module.named_modules():
        if isinstance(inner, torch.jit.ScriptModule):
            hint = "Fold the module that it was made from, then script or trace the result."
            raise UsageError("bad-input", f"{name or 'The module'} is compiled by torch.jit.", hint)
        if hasattr(inner, "_orig_mod"):
            hint = "Fold first, then call torch.compile on the result."
            raise UsageError("bad-input", f"{name or 'The module'} is compiled by torch.compile.", hint)
