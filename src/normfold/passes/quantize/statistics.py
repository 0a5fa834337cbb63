"""Statistics of the values of a network: over data, or from what the norms that were folded knew."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx_ir

from normfold.core.integers.moments import Normal, carried
from normfold.core.integers.ranges import Seen
from normfold.core.integers.steps import Linear, Network, Transposed
from normfold.models.dataset import Dataset
from normfold.passes.quantize.recipe import Work
from normfold.passes.quantize.seen import observed
from normfold.records import StatisticsRecord


def gathered(work: Work, model: onnx_ir.Model, network: Network, data: Dataset) -> dict[str, Seen]:
    """The statistics over ``data`` of every value of ``network`` that ``model`` has.

    Raises:
        UsageError: ``bad-data``: the model does not run on them, or there are none.
    """
    found = observed(work, model, data, watched(network))
    return {name: _seen(arrays) for name, arrays in found.items() if arrays["extent"][4]}


def watched(network: Network) -> dict[str, int | None]:
    """Values of the model that may get codes, and the axis of the channels of each."""
    wanted: dict[str, int | None] = {}
    varying = set(network.inputs)
    for step in network.steps:
        # What is computed from constants alone is none of the values that ONNX Runtime has.
        varying |= {step.output} if varying & set(step.inputs) else set()
        for value in (*step.inputs, step.output):
            source = network.derived.get(value, (value, 1.0))[0]
            if source in network.floats and (source in varying or value in network.derived):
                wanted.setdefault(source, None)
        if isinstance(step, Linear | Transposed):
            source = network.derived.get(step.inputs[0], (step.inputs[0], 1.0))[0]
            if source in wanted:
                wanted[source] = -1 if step.window is None else -1 - len(step.window.kernel)
    return wanted


def _seen(arrays: Mapping[str, np.ndarray]) -> Seen:
    low, high, reach, elements, _ = (float(number) for number in arrays["extent"])
    mean = square = None
    if elements and arrays["total"].size:
        mean, square = arrays["total"] / elements, arrays["squares"] / elements
    return Seen(low, high, np.array(arrays["counts"]), reach, mean, square)


def recorded(network: Network, records: Iterable[StatisticsRecord]) -> dict[str, Seen]:
    """What the norms that were folded knew about the values of ``network``, and what follows for others."""
    known = {record.value: Normal(np.asarray(record.mean), np.asarray(record.deviation)) for record in records}
    return carried(network, known)
