"""What the values of a model are over data: one pass, in a worker, in constant memory."""

from __future__ import annotations

from collections.abc import Mapping

from normfold import limits
from normfold.core.algebra.affine import Array
from normfold.errors import UsageError
from normfold.passes.quantize.outputs import BATCH
from normfold.passes.quantize.recipe import Work
from normfold.runtime import Failed, Runnable, WorkerClient


def observed(work: Work, model: Runnable, axes: Mapping[str, int | None]) -> Mapping[str, Mapping[str, Array]]:
    """What `normfold.runtime.workers.observing` keeps of each value of ``model`` that ``axes`` names, over the data.

    Raises:
        UsageError: ``bad-data``: the model does not run on them, or there are none.
    """
    data = work.calibration
    if data is None:
        return {}
    inputs = {one.name for one in data.takes}

    def task(client: WorkerClient) -> Mapping[str, Mapping[str, Array]] | Failed:
        extra = [name for name in axes if name not in inputs]
        loaded = client.load(model, extra_outputs=extra, custom_ops=work.custom_ops, optimised=True)
        if isinstance(loaded, Failed):
            return loaded
        for batch in data.batches(BATCH):
            limits.check()
            failed = client.observe(batch.inputs, axes)
            if failed is not None:
                return failed
        return client.observed()

    found = work.evaluator.submit(task).result()
    if isinstance(found, Failed):
        raise UsageError("bad-data", f"The model does not run on {data.origin}: {found.message}")
    return found
