"""What the values of a model are over data: one pass, in a worker, in constant memory."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir

from normfold import limits
from normfold.core.algebra.affine import Array
from normfold.errors import UsageError
from normfold.models.dataset import Dataset
from normfold.models.source import runnable
from normfold.passes.quantize.outputs import BATCH
from normfold.passes.quantize.recipe import Work
from normfold.runtime import Drawn, Failed, WorkerClient


def observed(
    work: Work, model: onnx_ir.Model, data: Dataset, axes: Mapping[str, int | None], patches: Drawn | None = None
) -> Mapping[str, Mapping[str, Array]]:
    """What `normfold.runtime.workers.observing` keeps of each value of ``model`` that ``axes`` names, over ``data``.

    ``patches`` are windows of these, of which `normfold.runtime.workers.patches` keeps second moments.

    Raises:
        UsageError: ``bad-data``: the model does not run on them, or there are none.
    """
    own = {value.name for value in (*model.graph.inputs, *model.graph.outputs)}
    extra = [name for name in axes if name not in own]

    def task(client: WorkerClient) -> Mapping[str, Mapping[str, Array]] | Failed:
        loaded = client.load(file, extra_outputs=extra, custom_ops=work.custom_ops, optimised=True)
        if isinstance(loaded, Failed):
            return loaded
        for batch in data.batches(BATCH):
            limits.check()
            failed = client.observe(batch.inputs, axes, patches)
            if failed is not None:
                return failed
        return client.observed()

    with runnable(model) as file:
        found = work.evaluator.submit(task).result()
    if isinstance(found, Failed):
        raise UsageError("bad-data", f"The model does not run on {data.origin}: {found.message}")
    return found
