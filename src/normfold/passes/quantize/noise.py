"""Signal to quantisation noise of the values of a network, on a few samples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import onnx_ir
from numpy.typing import NDArray

from normfold.backends.onnx.integers.simulated import emit_observable
from normfold.core.integers.plan import Plan
from normfold.models.dataset import Batch, Dataset
from normfold.models.source import runnable
from normfold.passes.quantize.recipe import Work
from normfold.runtime import Failed, Runnable, WorkerClient

SAMPLES: Final = 4
"""All values of a model are held at once, so it is looked at on so few."""


def signal_to_noise(work: Work, model: onnx_ir.Model, plan: Plan, data: Dataset) -> dict[str, float]:
    """Decibels by name of the value, of the values of ``model`` that have codes in ``plan``."""
    simulation, names = emit_observable(model.clone(), plan)
    own = {value.name for node in model.graph for value in node.outputs}
    shared = {value: name for value, name in names.items() if value in own and value in plan.network.floats}
    batch = next(data.part(0, SAMPLES).batches(SAMPLES))
    with runnable(model.clone()) as plain, runnable(simulation) as coded:
        wanted = _values(work, plain, batch, list(shared))
        found = _values(work, coded, batch, list(shared.values()))
    if not wanted or not found:
        return {}
    # Channels of zeros that the model does not have come last.
    channels = plan.network.padded
    kept = {
        value: found[name][:, : channels[value]] if value in channels else found[name] for value, name in shared.items()
    }
    return {value: _decibels(wanted[value], kept[value]) for value in shared}


def _values(work: Work, model: Runnable, batch: Batch, names: Sequence[str]) -> Mapping[str, NDArray[Any]]:
    """Values on a batch; none where the model does not run with all of them among its outputs."""

    def task(client: WorkerClient) -> Mapping[str, NDArray[Any]] | Failed:
        loaded = client.load(model, extra_outputs=names, custom_ops=work.custom_ops, optimised=True)
        ran = loaded if isinstance(loaded, Failed) else client.run(batch.inputs, names)
        return ran if isinstance(ran, Failed) else ran.outputs

    done = work.evaluator.submit(task).result()
    return {} if isinstance(done, Failed) else done


def _decibels(wanted: NDArray[Any], found: NDArray[Any]) -> float:
    signal = float(np.square(wanted, dtype=np.float64).sum())
    noise = float(np.square(wanted.astype(np.float64) - found).sum())
    return 10.0 * math.log10(max(signal, 1e-30) / max(noise, 1e-12 * signal, 1e-30))
