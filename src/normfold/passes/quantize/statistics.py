"""Statistics of the values of a network: over data, or from what the norms that were folded knew."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import onnx_ir

from normfold.core.integers.moments import Normal, carried
from normfold.core.integers.ranges import Seen
from normfold.core.integers.rounding import Spread
from normfold.core.integers.steps import Linear, Network, Transposed
from normfold.models.dataset import Dataset
from normfold.passes.quantize.recipe import Work
from normfold.passes.quantize.seen import observed
from normfold.records import StatisticsRecord

MOST_MOMENTS: Final = 1 << 24
"""Second moments that are kept, 8 bytes each."""


@dataclass(frozen=True, slots=True)
class Gathered:
    """What is known of the values of a network, and of what its linear steps multiply."""

    seen: dict[str, Seen]
    spreads: dict[Linear, Spread] = field(default_factory=dict)


def gathered(work: Work, model: onnx_ir.Model, network: Network, data: Dataset) -> Gathered:
    """The statistics over ``data`` of every value of ``network`` that ``model`` has.

    Raises:
        UsageError: ``bad-data``: the model does not run on them, or there are none.
    """
    axes = watched(network)
    wanted = {step: spec for step, spec in drawn(network).items() if spec[0] in axes}
    labels = {step: _label(spec) for step, spec in wanted.items()}
    found = observed(work, model, data, axes, {labels[step]: spec for step, spec in wanted.items()})
    seen = {name: _seen(found[name]) for name in axes if found[name]["extent"][4]}
    spreads = {}
    for step, label in labels.items():
        rows, total, products = (found[label][key] for key in ("rows", "sums", "products"))
        if rows[0] >= total.shape[-1] > 0:
            factor = network.derived.get(step.inputs[0], ("", 1.0))[1]
            spread = Spread.of(int(rows[0]), total, products).times(np.full_like(total, factor))
            spreads[step] = spread.padded(step.groups, math.prod(step.weight.shape[1:]))
    return Gathered(seen, spreads)


def drawn(network: Network) -> dict[Linear, tuple[str, dict[str, int | list[int]]]]:
    """The value of the model that each linear step reads and the windows that it sees, small ones first.

    Those whose second moments would take more memory than `MOST_MOMENTS` go without.
    """
    found = {}
    linear = [step for step in network.steps if isinstance(step, Linear)]
    left, labels = MOST_MOMENTS, set[str]()
    for step in sorted(linear, key=_moments_of):
        window = step.window
        names = ("kernel", "strides", "dilations", "begins", "ends")
        spec: dict[str, int | list[int]] = {name: list(getattr(window, name, ())) for name in names}
        value = network.derived.get(step.inputs[0], (step.inputs[0], 1.0))[0]
        groups = network.padded.get(step.inputs[0], step.groups) if step.depthwise else step.groups
        one = (value, {"groups": groups, **spec})
        size = 0 if _label(one) in labels else _moments_of(step)
        if size <= left:
            left -= size
            labels.add(_label(one))
            found[step] = one
    return found


def _moments_of(step: Linear) -> int:
    """Second moments of the windows that ``step`` sees."""
    return step.groups * math.prod(step.weight.shape[1:]) ** 2


def _label(spec: tuple[str, Mapping[str, int | list[int]]]) -> str:
    return f"windows of {spec[0]}: {dict(spec[1])}"


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


def recorded(plain: Network, network: Network, records: Iterable[StatisticsRecord]) -> dict[str, Seen]:
    """What norms know about the values of ``plain`` and of ``network``, and what follows for others.

    ``network`` is the form of ``plain`` that becomes integers: in one there are values that the other has not.
    """
    known = {record.value: Normal(np.asarray(record.mean), np.asarray(record.deviation)) for record in records}
    found = carried(network, carried(plain, known))
    return {value: normal.seen() for value, normal in found.items()}
