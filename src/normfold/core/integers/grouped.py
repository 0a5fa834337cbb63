"""Grouped convolutions in the forms that integer kernels are quick in: of each channel alone, or of all channels.

A kernel takes a group at a time, which costs more than the products in it where groups are small. Figures are from
AVX-512 VNNI, ONNX Runtime 1.31, by ``benchmarks/integer_kernels.py``.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

import numpy as np

from normfold.core.algebra.moves import Dim
from normfold.core.integers.steps import Linear, Network, Select, Step

Shape = tuple[Dim, ...] | None

GROUP: Final = 13_500
"""Products of a convolution of all channels that take as long as one more group at one position: 35 ns."""
FREE: Final = 3
"""Groups up to which the products of all channels are no more than three times as many: as quick for VNNI."""


def with_quick_groups(network: Network) -> Network:
    """``network`` with grouped convolutions as what computes the same in less time."""
    steps: list[Step] = []
    shapes: dict[str, Shape] = {}
    for step in network.steps:
        made = _quick(step)
        shapes |= {one.output: _shape(network, one) for one in made if isinstance(one, Select)}
        steps += made
    return replace(network, steps=tuple(steps), shapes=dict(network.shapes) | shapes, added=network.added | set(shapes))


def _quick(step: Step) -> list[Step]:
    if not isinstance(step, Linear) or step.window is None or step.groups == 1 or step.depthwise:
        return [step]
    rows = len(step.weight) // step.groups
    if step.weight.shape[1] == 1:
        return _each_alone(step, rows)
    products = math.prod(step.weight.shape[1:]) * rows
    return [_of_all(step) if (step.groups - FREE) * products < GROUP else step]


def _each_alone(step: Linear, rows: int) -> list[Step]:
    """Several results of each channel: each channel several times, then each alone."""
    axis = -1 - (step.weight.ndim - 2)
    repeated = Select(
        name=step.name,
        operator=step.operator,
        inputs=step.inputs,
        output=f"{step.output}/repeated",
        nodes=step.nodes,
        axis=axis,
        index=tuple(int(channel) for channel in np.repeat(np.arange(step.groups), rows)),
    )
    return [repeated, replace(step, inputs=(repeated.output,), groups=len(step.weight))]


def _of_all(step: Linear) -> Linear:
    """The same with weights of zero between groups."""
    outer, inner, *taps = step.weight.shape
    rows = outer // step.groups
    weight = np.zeros((outer, inner * step.groups, *taps))
    for group in range(step.groups):
        weight[group * rows : (group + 1) * rows, group * inner : (group + 1) * inner] = step.weight[
            group * rows : (group + 1) * rows
        ]
    return replace(step, weight=weight, groups=1)


def _shape(network: Network, step: Select) -> Shape:
    shape = network.shapes.get(step.inputs[0])
    if shape is None:
        return None
    return (*shape[: step.axis], len(step.index), *(shape[step.axis + 1 :] if step.axis < -1 else ()))
