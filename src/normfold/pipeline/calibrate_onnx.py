"""Calibrated conversion of an ONNX model: its values are seen in a worker, as are the outputs that judge the result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import onnx_ir

from normfold.core.graph import Graph
from normfold.core.views import Node
from normfold.errors import UsageError
from normfold.measure.metrics import Evaluation, Metric, Score
from normfold.models.dataset import Batch, Dataset
from normfold.models.source import OnnxSource
from normfold.passes.convert.calibrated.moments import Watch
from normfold.passes.rewritten import Rewritten
from normfold.pipeline.fold_onnx import FileFold, Request
from normfold.pipeline.judged import by_drift, by_score
from normfold.proof.probes import Array
from normfold.records import Refusal, Verification
from normfold.runtime import Evaluator, Failed, Runnable

BATCH: Final = 32


@dataclass(frozen=True, slots=True)
class Judging:
    """What a fitted result goes by: see `normfold.pipeline.calibrate_module.Calibration`."""

    held_out: Dataset | None = None
    evaluation: Dataset | None = None
    metric: Metric | None = None
    max_drop: float = 1.0


@dataclass(slots=True)
class FileObserver:
    """Shows what the norms of an ONNX model read, in a worker. What was seen of a norm is not computed again."""

    evaluator: Evaluator
    source: OnnxSource
    data: Dataset
    _seen: dict[tuple[str, str, str], Watch] = field(default_factory=dict)

    def observe(self, graph: Graph, wanted: Mapping[Node, Watch]) -> None:
        """Run the model once, with what its norms read among its outputs."""
        keys = {node: _key(graph, node, gatherer) for node, gatherer in wanted.items()}
        missing = {keys[node]: gatherer for node, gatherer in wanted.items() if keys[node] not in self._seen}
        if missing:
            self._run(missing)
            self._seen |= missing
        for node, gatherer in wanted.items():
            gatherer.take_over(self._seen[keys[node]])

    def _run(self, wanted: Mapping[tuple[str, str, str], Watch]) -> None:
        names = list(dict.fromkeys(name for read, made, _ in wanted for name in (read, made) if name))
        with self.source.runnable() as file:
            _loaded(self.evaluator, file, names)
            for batch in self.data.batches(BATCH):
                found = _ran(self.evaluator, batch, names)
                for (read, made, _), gatherer in wanted.items():
                    gatherer.add(found[read][: batch.count], found[made][: batch.count] if made else None)


def _key(graph: Graph, node: Node, gatherer: Watch) -> tuple[str, str, str]:
    """What the norm reads, what it makes if that is wanted, and what is gathered of them."""
    view = graph.view(node)
    made = graph.value_name(view.outputs[0]) if gatherer.needs_output else ""
    return graph.value_name(view.inputs[0]), made, gatherer.kind


def _loaded(evaluator: Evaluator, file: Runnable, extra: list[str] | None = None) -> tuple[str, ...]:
    loaded = evaluator.submit(lambda worker: worker.load(file, extra_outputs=extra or [])).result()
    if isinstance(loaded, Failed):
        raise UsageError("bad-data", f"The model does not run on the data: {loaded.message}.")
    return loaded.outputs


def _ran(evaluator: Evaluator, batch: Batch, outputs: list[str]) -> dict[str, Array]:
    ran = evaluator.submit(lambda worker: worker.run(batch.inputs, outputs)).result()
    if isinstance(ran, Failed):
        raise UsageError("bad-data", f"The model does not run on the data: {ran.message}.")
    return ran.outputs


@dataclass(slots=True)
class CalibratedFile:
    """A `Source` for the loop, as `FileFold` is: what that one converts is judged by its outputs on the data."""

    fold: FileFold
    evaluator: Evaluator
    source: OnnxSource
    request: Request
    judging: Judging
    score: Score | None = None
    drift: float | None = None
    _wanted: dict[str, list[dict[str, Array]]] = field(default_factory=dict)

    def rewritten(self, dropped: Mapping[str, Refusal]) -> Rewritten[onnx_ir.Model]:
        """Convert a fresh copy."""
        return self.fold.rewritten(dropped)

    def compared(self, attempt: Rewritten[onnx_ir.Model]) -> Verification:
        """The result by the metric, or else by how far its outputs drift on held-out samples."""
        asked = self.judging
        staged = self.fold.staged(attempt.model)
        self.request.progress("judging")
        file = Runnable(staged.file, staged.data_folder)
        if asked.held_out is None and asked.evaluation is None:
            because = "fitted without data, and there are none to judge it by; name some with --evaluate"
            return Verification("unavailable", because=because)
        if asked.held_out is not None:
            self.drift = self._drift(file, asked.held_out)
        if asked.evaluation is not None and asked.metric is not None:
            self.score = self._score(file, asked.evaluation, asked.metric)
            return by_score(self.score, asked.max_drop, self.drift)
        return by_drift(self.drift or 0.0, "held-out calibration samples")

    def _outputs(self, file: Runnable, data: Dataset) -> Iterator[tuple[Batch, dict[str, Array]]]:
        names = list(_loaded(self.evaluator, file))
        for batch in data.batches(BATCH):
            yield batch, _ran(self.evaluator, batch, names)

    def _source_outputs(self, key: str, data: Dataset) -> list[dict[str, Array]]:
        if key not in self._wanted:
            with self.source.runnable() as file:
                self._wanted[key] = [found for _, found in self._outputs(file, data)]
        return self._wanted[key]

    def _drift(self, file: Runnable, data: Dataset) -> float:
        """Root mean square deviation of the first output, relative to how it varies."""
        wanted = self._source_outputs("held out", data)
        name = next(iter(wanted[0]))
        before, after = [], []
        for (batch, found), one in zip(self._outputs(file, data), wanted, strict=True):
            before.append(one[name][: batch.count].astype(np.float64))
            after.append(found[name][: batch.count].astype(np.float64))
        source, result = np.concatenate(before), np.concatenate(after)
        return float(np.sqrt(((result - source) ** 2).mean() / max(source.var(), 1e-30)))

    def _score(self, file: Runnable, data: Dataset, metric: Metric) -> Score:
        wanted, collected = self._source_outputs("evaluation", data), Evaluation(metric)
        for (batch, found), one in zip(self._outputs(file, data), wanted, strict=True):
            collected.add(one, found, batch)
        return collected.score()


def opened(stack: ExitStack, source: OnnxSource) -> Evaluator:
    """A worker that runs models, for as long as ``stack`` is open."""
    evaluator = stack.enter_context(Evaluator())
    evaluator.expect(source.nbytes)
    return evaluator
