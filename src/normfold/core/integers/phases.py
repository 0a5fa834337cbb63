"""A transposed convolution as plain ones: integer kernels have no other form of it.

Outputs whose place has one remainder by the stride, one phase, read the same taps. Each phase is a convolution of the
input with every stride-th tap, in reverse order; the phases are then put side by side.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np

from normfold.core.algebra import Window
from normfold.core.algebra.moves import Dim
from normfold.core.integers.steps import Interleave, Linear, Network, Step, Transposed


def with_phases(network: Network) -> Network:
    """``network`` with every transposed convolution that has such a form in it."""
    steps: list[Step] = []
    for step in network.steps:
        steps += _phases(network, step) if isinstance(step, Transposed) else [step]
    shapes = {value: _of_phase(step) for step in steps if isinstance(step, Interleave) for value in step.inputs}
    return replace(network, steps=tuple(steps), shapes=shapes | dict(network.shapes), added=network.added | set(shapes))


def _of_phase(step: Interleave) -> tuple[Dim, ...]:
    return (None, step.channels, *step.sizes)


def _phases(network: Network, step: Transposed) -> list[Step]:
    """The convolutions and what puts them together; ``step`` itself where its sizes do not fit."""
    axes = range(len(step.window.kernel))
    shape = network.shapes.get(step.inputs[0])
    known = shape is not None and all(isinstance(size, int) for size in shape[1:])
    placed = [_along(step, axis) for axis in axes]
    if not known or any(one is None for one in placed):
        return [step]
    parts: list[Step] = []
    for phase in itertools.product(*(range(stride) for stride in step.window.strides)):
        weight, begins, ends = step.weight, [], []
        for axis, remainder in enumerate(phase):
            found = placed[axis]
            if found is None:
                return [step]
            taps, begin, end = found[remainder]
            weight = np.take(weight, taps, axis=axis + 2)
            begins.append(begin)
            ends.append(end)
        ones = (1,) * len(phase)
        window = Window(weight.shape[2:], ones, ones, tuple(begins), tuple(ends))
        parts.append(
            Linear(
                name=step.name,
                operator=step.operator,
                inputs=step.inputs,
                output=f"{step.output}/phase {'.'.join(map(str, phase))}",
                nodes=step.nodes,
                low=step.low,
                high=step.high,
                weight=weight,
                bias=step.bias,
                groups=step.groups,
                window=window,
            )
        )
    together = Interleave(
        name=step.name,
        operator=step.operator,
        inputs=tuple(part.output for part in parts),
        output=step.output,
        nodes=step.nodes,
        strides=step.window.strides,
        sizes=tuple(int(str(size)) for size in (shape or ())[2:]),
        channels=len(step.weight),
    )
    return [*parts, together]


def _along(step: Transposed, axis: int) -> list[tuple[list[int], int, int]] | None:
    """For each phase along ``axis`` its taps, and the padding at both ends; None where phases differ in length."""
    window = step.window
    kernel, stride, begin, end = (one[axis] for one in (window.kernel, window.strides, window.begins, window.ends))
    if window.dilations[axis] != 1 or kernel - begin - end + step.surplus[axis] != stride:
        return None
    found = []
    for remainder in range(stride):
        first = (remainder + begin) % stride
        taps = list(range(first, kernel, stride))[::-1]
        ahead = (remainder + begin - first) // stride
        before = len(taps) - 1 - ahead
        if not taps or before < 0:
            return None
        found.append((taps, before, ahead))
    return found
