"""How accurate quantised models are, beside their source on the same samples."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from normfold.measure.metrics import Evaluation, Metric, Score
from normfold.models.dataset import Batch, Dataset
from normfold.passes.quantize.figures import Accuracy, Bounds
from normfold.passes.quantize.outputs import Outputs, run
from normfold.runtime import Evaluator, Runnable


class Judge:
    """Holds what the source answers on ``data``, and scores others against it."""

    def __init__(
        self, evaluator: Evaluator, source: Runnable, data: Dataset, metric: Metric, custom_ops: tuple[str, ...] = ()
    ) -> None:
        self._evaluator, self._data, self._metric, self._custom_ops = evaluator, data, metric, custom_ops
        self._expected: list[Outputs] = []
        run(evaluator, source, data, self._keep, custom_ops)

    def accuracy(self, result: Runnable) -> Accuracy:
        """The metric of ``result`` on the session options that ship."""
        found = self._score(result, optimised=True)
        change = found.difference
        bounds = Bounds(change.value, change.low, change.high)
        return Accuracy(
            found.metric,
            found.unit,
            found.before,
            found.after,
            bounds,
            found.drop,
            found.worst,
            found.samples,
            found.method,
        )

    def unoptimised(self, accuracy: Accuracy, result: Runnable) -> Accuracy:
        """``accuracy`` with what ``result`` comes to without ONNX Runtime's optimisations."""
        return replace(accuracy, unoptimised=self._score(result, optimised=False).after)

    def _keep(self, _: Batch, outputs: Outputs) -> None:
        # What a worker wrote is mapped from files that go away.
        self._expected.append({name: np.array(array) for name, array in outputs.items()})

    def _score(self, result: Runnable, *, optimised: bool) -> Score:
        evaluation, expected = Evaluation(self._metric), iter(self._expected)

        def add(batch: Batch, outputs: Outputs) -> None:
            evaluation.add(next(expected), outputs, batch)

        run(self._evaluator, result, self._data, add, self._custom_ops, optimised=optimised)
        return evaluation.score()
