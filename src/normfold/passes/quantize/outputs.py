"""Running models over samples in a worker, and how far the outputs of one are from those of another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from normfold import limits
from normfold.errors import UsageError
from normfold.models.dataset import Batch, Dataset
from normfold.runtime import Evaluator, Failed, Runnable, WorkerClient

Outputs = Mapping[str, NDArray[Any]]

BATCH: Final = 32
HELD_OUT: Final = 256
"""Samples that no statistics are gathered on, at most: on them what was chosen is compared."""
FEWEST: Final = 16
"""With fewer than twice as many samples, statistics and comparisons are on the same ones."""


def split(data: Dataset) -> tuple[Dataset, Dataset]:
    """The samples to gather statistics on, and those held out."""
    count = data.count
    if count is None:
        enough = sum(1 for _ in data.part(0, 2 * FEWEST).batches(1)) == 2 * FEWEST
        return (data.part(FEWEST), data.part(0, FEWEST)) if enough else (data, data)
    held = min(HELD_OUT, count // 4)
    return (data, data) if held < FEWEST else (data.part(held), data.part(0, held))


def run(
    evaluator: Evaluator,
    model: Runnable,
    data: Dataset,
    use: Callable[[Batch, Outputs], None],
    custom_ops: Sequence[str] = (),
    *,
    optimised: bool = True,
) -> None:
    """Call ``use`` with every batch of ``data`` and the outputs of ``model`` on it.

    Raises:
        UsageError: ``bad-data``: the model does not run on them.
    """

    def task(client: WorkerClient) -> Failed | None:
        loaded = client.load(model, custom_ops=custom_ops, optimised=optimised)
        if isinstance(loaded, Failed):
            return loaded
        for batch in data.batches(BATCH):
            limits.check()
            ran = client.run(batch.inputs)
            if isinstance(ran, Failed):
                return ran
            use(batch, ran.outputs)
        return None

    failed = evaluator.submit(task).result()
    if failed is not None:
        raise UsageError("bad-data", f"The model does not run on {data.origin}: {failed.message}")


class Loss:
    """How far the outputs of models are from those of a reference on the same samples: noise over signal."""

    def __init__(self) -> None:
        self._expected: list[Outputs] = []
        self._signal: dict[str, float] = {}

    def expect(self, batch: Batch, outputs: Outputs) -> None:
        """Keep what the reference answers."""
        kept = {name: np.array(_samples(batch, array)) for name, array in outputs.items() if array.dtype.kind == "f"}
        self._expected.append(kept)
        for name, array in kept.items():
            centred = array.astype(np.float64) - array.mean(dtype=np.float64)
            self._signal[name] = self._signal.get(name, 0.0) + float(np.square(centred).sum())

    def of(self, evaluator: Evaluator, model: Runnable, data: Dataset, custom_ops: Sequence[str] = ()) -> float:
        """The mean over outputs of noise over signal."""
        noise: dict[str, float] = {}
        expected = iter(self._expected)

        def add(batch: Batch, outputs: Outputs) -> None:
            for name, array in next(expected).items():
                error = np.square(_samples(batch, outputs[name]).astype(np.float64) - array).sum()
                noise[name] = noise.get(name, 0.0) + float(error)

        run(evaluator, model, data, add, custom_ops)
        return float(np.mean([noise[name] / max(self._signal[name], 1e-30) for name in noise] or [0.0]))


def _samples(batch: Batch, array: NDArray[Any]) -> NDArray[Any]:
    """Without what fills a fixed batch up."""
    return array[: batch.count] if array.ndim else array
