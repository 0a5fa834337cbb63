"""Calibrated conversion of an ``nn.Module``: fitted to calibration inputs, judged by how far its outputs drift."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from normfold.backends.torch import copied
from normfold.core.graph import Graph
from normfold.core.views import Node
from normfold.measure.metrics import Evaluation, Metric, Score
from normfold.models.dataset import Dataset
from normfold.models.exporter.interface import interface
from normfold.models.module.duplicate import duplicate, replica
from normfold.models.module.example import Example, tensor_like, tensors_in, to_array
from normfold.passes.convert.calibrated.distill import Distillation, distill
from normfold.passes.convert.calibrated.lockstep import refit
from normfold.passes.convert.calibrated.moments import Watch
from normfold.passes.fold.module import FoldedModule
from normfold.passes.rewritten import Rewritten
from normfold.pipeline.fold_module import ModuleFold
from normfold.pipeline.judged import by_drift, by_score, fitted
from normfold.records import Refusal, Verification

BATCH: Final = 32
FITTED_ON: Final = 512
"""Samples that layers are refitted to at most."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """How a module is called with arrays by input name."""

    module: nn.Module
    example: Example
    names: tuple[str, ...]

    @staticmethod
    def of(module: nn.Module, example: Example) -> Inputs:
        """Inputs are called as the arguments of ``forward``."""
        return Inputs(module, example, interface(duplicate(module), example, {}, mutable=True).inputs)

    def takes(self) -> tuple[ModuleInput, ...]:
        """What data have to be, for `normfold.models.dataset`."""
        return tuple(
            ModuleInput(name, np.dtype(to_array(tensor).dtype), (None, *tensor.shape[1:]))
            for name, tensor in zip(self.names, self.example.tensors(), strict=True)
        )

    def tensors(self, arrays: Mapping[str, Any]) -> tuple[torch.Tensor, ...]:
        """``arrays`` as the example's tensors are."""
        named = zip(self.names, self.example.tensors(), strict=True)
        return tuple(tensor_like(arrays[name], like.new_empty(arrays[name].shape)) for name, like in named)

    def call(self, module: nn.Module, tensors: Sequence[torch.Tensor]) -> Any:
        """What ``module`` returns for ``tensors``."""
        filled = self.example.filled(list(tensors))
        return module(*filled.args, **filled.kwargs)

    def first(self, module: nn.Module, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        """The first tensor that it returns."""
        return next(tensors_in(self.call(module, tensors)))

    def stream(self, data: Dataset) -> Iterator[tuple[torch.Tensor, ...]]:
        """The samples of ``data``, some at a time."""
        for batch in data.batches(BATCH):
            yield self.tensors({name: array[: batch.count] for name, array in batch.inputs.items()})


@dataclass(frozen=True, slots=True)
class ModuleInput:
    """One input of a module."""

    name: str
    dtype: np.dtype[Any] | None
    shape: tuple[int | None, ...] | None


@dataclass(slots=True)
class ModuleObserver:
    """Shows what a module's norms read. What was seen of a norm is not computed again."""

    inputs: Inputs
    data: Dataset
    _seen: dict[tuple[str, str], Watch] = field(default_factory=dict)

    def observe(self, graph: Graph, wanted: Mapping[Node, Watch]) -> None:
        """Run the module once, with a hook at each norm's module."""
        keys = {node: (graph.name(node), gatherer.kind) for node, gatherer in wanted.items()}
        missing = {keys[node]: gatherer for node, gatherer in wanted.items() if keys[node] not in self._seen}
        if missing:
            self._run(missing)
            self._seen |= missing
        for node, gatherer in wanted.items():
            gatherer.take_over(self._seen[keys[node]])

    def _run(self, wanted: Mapping[tuple[str, str], Watch]) -> None:
        module = duplicate(self.inputs.module)
        with ExitStack() as hooks, torch.no_grad():
            for (path, _), gatherer in wanted.items():
                hooks.callback(module.get_submodule(path).register_forward_hook(_adding(gatherer)).remove)
            for tensors in self.inputs.stream(self.data):
                self.inputs.call(module, tensors)


def _adding(gatherer: Watch) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
    def add(_module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        gatherer.add(to_array(inputs[0]), to_array(output) if gatherer.needs_output else None)

    return add


@dataclass(frozen=True, slots=True)
class Calibration:
    """What a calibrated conversion goes by.

    Attributes:
        fitting_data: unlabelled samples to fit to; None where norms' own statistics have to do.
        held_out: those by which each step is judged, and the result, unless there is ``evaluation``; the example inputs
            where there are none.
        evaluation: labelled samples for ``metric``.
        max_drop: how much worse the metric may be, in its unit.
        distill: seconds of distillation; 0 for none.
    """

    inputs: Inputs
    fitting_data: Dataset | None = None
    held_out: Dataset | None = None
    evaluation: Dataset | None = None
    metric: Metric | None = None
    max_drop: float = 1.0
    distill: float = 0.0


@dataclass(slots=True)
class CalibratedModule:
    """A `Source` for the loop, as `ModuleFold` is: what that one converts is fitted more closely, and judged."""

    fold: ModuleFold
    calibration: Calibration
    score: Score | None = None
    drift: float | None = None
    """Root mean square deviation of the outputs, relative to how they vary, on held-out samples."""
    _wanted: list[torch.Tensor] = field(default_factory=list)

    def rewritten(self, dropped: Mapping[str, Refusal]) -> Rewritten[FoldedModule]:
        """Convert a fresh copy, and fit what is behind its norms to what they make now."""
        attempt = self.fold.rewritten(dropped)
        mine = fitted(attempt.decisions)
        if not mine or self.calibration.fitting_data is None:
            return attempt
        result = attempt.model.module
        result.eval()
        norms = [one.site for one in mine]
        if not self._refitted(result, norms, dense=True):
            self._refitted(result, norms, dense=False)
        if self.calibration.distill:
            self._distilled(result, norms)
        return attempt

    def _refitted(self, result: nn.Module, norms: Sequence[str], *, dense: bool) -> bool:
        """Refit ``result`` where that brings it closer to its source on held-out samples; whether it does."""
        self.fold.progress("refitting" + (" weights" if dense else " norms"))
        samples = self._samples(FITTED_ON)
        trial, before = copied(result), self._distance(result)
        inputs = self.calibration.inputs
        refit(duplicate(self.fold.module), trial, lambda module: inputs.call(module, samples), norms, dense=dense)
        closer = self._distance(trial) < before
        if closer:
            result.load_state_dict(trial.state_dict())
        return closer

    def _samples(self, most: int) -> tuple[torch.Tensor, ...]:
        data = self.calibration.fitting_data
        if data is None:
            raise TypeError("there is nothing to fit to")
        batches = list(self.calibration.inputs.stream(data.part(0, most)))
        return tuple(torch.cat(parts) for parts in zip(*batches, strict=True))

    def _distilled(self, result: nn.Module, norms: Sequence[str]) -> None:
        self.fold.progress("distilling")
        inputs, fold = self.calibration.inputs, self.fold
        job = Distillation(
            self._samples(1 << 14),
            inputs.first,
            [path for path in norms if hasattr(result.get_submodule(path), "weight")],
            lambda module: -self._distance(module),
            self.calibration.distill,
            fold.seed,
            fold.progress,
        )
        distill(duplicate(fold.module).eval(), result, job)

    def _distance(self, result: nn.Module) -> float:
        """Mean squared deviation of the first output on what results are judged by, relative to its variance."""
        inputs = self.calibration.inputs
        with torch.no_grad():
            if not self._wanted:
                source = duplicate(self.fold.module)
                self._wanted = [inputs.first(source, tensors).double() for tensors in self._judged_on()]
            found = torch.cat([inputs.first(result, tensors).double() for tensors in self._judged_on()])
        wanted = torch.cat(self._wanted)
        return float((found - wanted).square().mean() / wanted.var().clamp_min(1e-30))

    def _judged_on(self) -> Iterator[tuple[torch.Tensor, ...]]:
        """Samples held out of the calibration, or else the example inputs."""
        held_out, inputs = self.calibration.held_out, self.calibration.inputs
        return iter([tuple(inputs.example.tensors())]) if held_out is None else inputs.stream(held_out)

    def compared(self, attempt: Rewritten[FoldedModule]) -> Verification:
        """A fitted result by the metric, or else by how far its outputs drift."""
        result = replica(attempt.model.module).eval()
        asked = self.calibration
        self.drift = self._distance(result) ** 0.5
        if asked.evaluation is not None and asked.metric is not None:
            self.score = evaluated(duplicate(self.fold.module), result, asked, asked.evaluation, asked.metric)
            return by_score(self.score, asked.max_drop, self.drift)
        if any(one.label == "needs-training" for one in attempt.decisions) and not asked.distill:
            because = f"a start for training, whose outputs deviate by {self.drift:.3g} of how they vary"
            return Verification("skipped", because=because, max_rel=self.drift)
        return by_drift(self.drift, "held-out calibration samples" if asked.held_out else "the example inputs")


def evaluated(source: nn.Module, result: nn.Module, asked: Calibration, data: Dataset, metric: Metric) -> Score:
    """``metric`` of both modules on ``data``."""
    collected = Evaluation(metric)
    with torch.no_grad():
        for batch in data.batches(BATCH):
            tensors = asked.inputs.tensors(batch.inputs)
            sides = [
                {f"output {k}": to_array(one) for k, one in enumerate(tensors_in(asked.inputs.call(module, tensors)))}
                for module in (source, result)
            ]
            collected.add(sides[0], sides[1], batch)
    return collected.score()
