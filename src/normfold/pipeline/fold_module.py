"""Folding an ``nn.Module``: compared in PyTorch itself, in this process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import nn

from normfold.backends.torch import Snapshot, TorchGraph, copied, explore, shared_memory
from normfold.core import driver
from normfold.errors import UsageError
from normfold.models.module.behaviour import not_running, seed_generators, unsteadiness
from normfold.models.module.duplicate import duplicate, replica
from normfold.models.module.example import Example, call
from normfold.models.module.untouched import untouched
from normfold.passes.fold import module as module_pass
from normfold.passes.fold.module import FoldedModule
from normfold.passes.rewritten import GraphPass, Rewritten
from normfold.pipeline.prove import HOLDS, Proven, UnprovenError
from normfold.proof.agreement import agree, agreement
from normfold.proof.comparison import Setup, verify
from normfold.proof.modules import InProcess, ModuleRunner, RunnableModule, Widened, setup_of
from normfold.records import Progress, Refusal, SiteReport, StatisticsRecord, Verification, silent
from normfold.runtime import Failed


@contextmanager
def _traceable(module: nn.Module, example: Example) -> Iterator[None]:
    """Where ``module`` does not run while it is traced, say why.

    Raises:
        UsageError: ``bad-input``; ``not-traceable`` where it runs otherwise.
    """
    try:
        yield
    except UsageError as error:
        if error.code == "bad-input":
            because = error.message.removeprefix("The module does not run on the example inputs: ")
            raise not_running(duplicate(module), example, because) from error
        raise


@untouched()
def inspect(
    module: nn.Module, example: Example, progress: Progress
) -> tuple[tuple[SiteReport, ...], tuple[StatisticsRecord, ...]]:
    """Every norm, its health, and what would be decided; what the norms know about values."""
    progress("tracing")
    with _traceable(module, example):
        run = explore(duplicate(module), example.args, example.kwargs)
    progress("inspecting")
    return driver.inspect(TorchGraph(run, shared_memory(module)))


@dataclass(slots=True)
class ModuleFold:
    """One fold of ``module``: a `Source` for the loop.

    With ``in_place`` it goes into the module itself, once it holds for a copy, and is taken back unless it holds there,
    too. Else the module is left as it is.
    """

    module: nn.Module
    example: Example
    work: GraphPass
    seed: int = 0
    progress: Progress = silent
    in_place: bool = False
    source: nn.Module | None = None
    """The copy that was traced last, whose state is that of one run."""
    _before: Snapshot | None = field(default=None, init=False)
    """What the module was, while it is folded."""

    def rewritten(self, dropped: Mapping[str, Refusal]) -> Rewritten[FoldedModule]:
        """Trace a fresh copy, and fold another."""
        self._put_back()
        self.source = duplicate(self.module)
        seed_generators(self.seed)
        with _traceable(self.module, self.example):
            return module_pass.rewrite(self.module, self.source, self.example, self.work, dropped, self.progress)

    def compared(self, attempt: Rewritten[FoldedModule]) -> Verification:
        """Run ``attempt`` beside the source, on the example's sizes and on a larger batch."""
        if self.source is None:
            raise ValueError("compared before rewritten")
        self.progress("comparing with the source")
        trace, setup = attempt.model.graph.trace, self._setup(attempt, self.example, self.source)
        alike = agreement(trace.result, self.source, self._spare(attempt), self.example, setup)
        proof = self._widened(attempt, alike or self._closer(attempt))
        # A module that differs from itself looks like a chaotic one, whose deviations are excused.
        if proof.status == "different" or (alike is None and proof.because):
            self._check_that_it_repeats_itself(attempt)
        return self._in_place(attempt, proof) if self.in_place and proof.status in HOLDS else proof

    def handed_over(self, done: Proven[FoldedModule]) -> nn.Module:
        """The folded copy, or the module itself, folded."""
        if self.in_place and self._before is None:
            self._write(done.model)
        return self.module if self.in_place else done.model.module

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Where an exception ends the block, the module is what it was before."""
        try:
            yield
        except BaseException:
            self._put_back()
            raise

    def _closer(self, attempt: Rewritten[FoldedModule]) -> Verification:
        """The comparison that tells rounding from a fault, and says where the two diverge."""
        proof = self._compared(self.example, attempt)
        larger = self.example.twice()
        if proof.status != "equivalent" or larger is None or isinstance(call(duplicate(self.module), larger), Failed):
            return proof
        second = self._compared(larger, attempt)
        return proof if second.status == "equivalent" else second

    def _compared(self, example: Example, attempt: Rewritten[FoldedModule]) -> Verification:
        source = duplicate(self.module)
        result = RunnableModule(self._spare(attempt), attempt.model.graph.origins())
        queue = InProcess(ModuleRunner(example, seed=self.seed))
        return verify(queue, RunnableModule(source), result, self._setup(attempt, example, source), attempt.pairs)

    def _setup(self, attempt: Rewritten[FoldedModule], example: Example, module: nn.Module) -> Setup:
        return setup_of(example, module, self.seed, attempt.model.graph.computes_in())

    def _widened(self, attempt: Rewritten[FoldedModule], proof: Verification) -> Verification:
        """``proof``, if it also holds where no cast inside the module rounds: what that excuses, it may hide."""
        types, data = attempt.model.graph.computes_in(), self.example.tensors()
        mode = Widened.of(self.module, types, data) if proof.status in HOLDS else None
        if mode is None:
            return proof
        with mode:
            seed_generators(self.seed)
            first = call(duplicate(self.module), self.example)
            seed_generators(self.seed)
            second = call(self._spare(attempt), self.example)
        setup = setup_of(self.example, self.module, self.seed)
        if isinstance(first, Failed) or isinstance(second, Failed) or agree(first, second, setup):
            return proof
        because = "the two differ by more than rounding where the module's own casts to narrower types are left out"
        return Verification("different", because=because, inputs=proof.inputs)

    def _spare(self, attempt: Rewritten[FoldedModule]) -> nn.Module:
        """A copy of the result to run: what is handed over has never been called."""
        result = attempt.model.module
        # What a run writes into parameters is seen in all that share them.
        return copied(result) if attempt.model.graph.trace.stateful else replica(result)

    def _check_that_it_repeats_itself(self, attempt: Rewritten[FoldedModule]) -> None:
        """Raise `UnprovenError` ``not-repeatable`` where the module differs from itself: no fold is to blame then."""
        why = unsteadiness(duplicate(self.module), self.example, seeded=True)
        if why:
            raise not_repeatable(why, attempt)

    def _in_place(self, attempt: Rewritten[FoldedModule], proof: Verification) -> Verification:
        """``proof``, if the module itself, folded, does what the copy does."""
        setup = self._setup(attempt, self.example, self.module)
        self._write(attempt.model)
        seed_generators(self.seed)
        found = call(duplicate(self.module), self.example)
        if agree(attempt.model.graph.trace.result, found, setup):
            return proof
        self._put_back()
        # Where rounding excuses the copy, it excuses the module.
        seed_generators(self.seed)
        if agree(call(self._spare(attempt), self.example), found, setup):
            self._write(attempt.model)
            return proof
        because = "folded in place, the module differs from its folded copy: something outside it holds a folded weight"
        return Verification("different", because=because, inputs=proof.inputs)

    def _write(self, folded: FoldedModule) -> None:
        self._before = Snapshot(self.module)
        with self.whole():
            folded.write_into(self.module)

    def _put_back(self) -> None:
        before, self._before = self._before, None
        if before is not None:
            before.put_back()


def not_repeatable(why: str, attempt: Rewritten[FoldedModule]) -> UnprovenError:
    """The error that nothing can be compared with a module, since it differs from itself."""
    message = f"The module gives other outputs for the same inputs, so no result can be compared with it: {why}."
    hint = "Fold it with this switched off, or without the comparison: --no-verify, or verify=False."
    return UnprovenError("not-repeatable", message, hint, attempt.decisions, Verification("unavailable", because=why))
