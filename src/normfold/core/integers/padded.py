"""Channels of zeros, where integer kernels take as many at a time: 120 channels alone take twice as long as 128.

Values that steps by channel connect are padded together, where all that makes them is a weight that can have more rows,
and all that reads them a weight that can have more columns, which are zeros.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from normfold.core.algebra.affine import Array
from normfold.core.algebra.moves import Dim
from normfold.core.integers.joined import Joined
from normfold.core.integers.steps import (
    Affine,
    ChannelClamp,
    GlobalMean,
    Leaky,
    Linear,
    MaxPool,
    Network,
    Product,
    Sigmoid,
    Step,
    Sum,
    Widen,
)

ALONE: Final = 16
"""Convolutions of each channel alone take so many at a time."""
TOGETHER: Final = 4
"""Sums over channels take so many at a time."""
BY_CHANNEL: Final = (Affine, ChannelClamp, GlobalMean, Leaky, MaxPool, Product, Sigmoid, Sum)
"""Steps that see each channel alone; besides convolutions that do."""


@dataclass(slots=True)
class _Group:
    """Values with the same channels."""

    values: list[str]
    alone: bool = False
    """Whether a convolution of each channel alone is among what connects them."""
    fixed: bool = False
    """Whether something makes or reads them that cannot do with more channels."""
    sizes: set[object] = field(default_factory=set)


def with_padding(network: Network) -> Network:
    """``network`` with channels of zeros wherever that makes its integer form quicker."""
    return _with_wider_inputs(_with_wider_values(network))


def _with_wider_values(network: Network) -> Network:
    joined = Joined()
    for step in network.steps:
        if _by_channel(step):
            joined.join((*step.inputs, step.output))
    groups = {value: group for group in _groups(network, joined) for value in group.values}
    for step in network.steps:
        _look(network, step, groups)
    for value in (*network.inputs, *network.outputs):
        if value in groups:
            groups[value].fixed = True
    wanted = {value: size for value, group in groups.items() if (size := _size(group)) is not None}
    shapes = dict(network.shapes)
    before = {value: int(str(next(iter(groups[value].sizes)))) for value in wanted}
    for value, size in wanted.items():
        shapes[value] = _resized(shapes[value], size)
    steps = tuple(_padded(step, wanted) for step in network.steps)
    return replace(network, steps=steps, shapes=shapes, padded=before)


def _with_wider_inputs(network: Network) -> Network:
    """Values that cannot have more channels themselves are read with some by convolutions of all channels."""
    made: dict[str, Widen] = {}
    steps: list[Step] = []
    for step in network.steps:
        if (
            isinstance(step, Linear)
            and step.window is not None
            and step.groups == 1
            and -step.weight.shape[1] % TOGETHER
        ):
            wide = made.get(step.inputs[0]) or _widen(step)
            steps += [] if step.inputs[0] in made else [wide]
            made[step.inputs[0]] = wide
            steps.append(replace(step, inputs=(wide.output,), weight=_more(step.weight, 0, wide.missing)))
        else:
            steps.append(step)
    shapes, derived, padded = dict(network.shapes), dict(network.derived), dict(network.padded)
    for value, wide in made.items():
        size = network.channels(value, 1 - (network.rank(value) or 0))
        shapes[wide.output] = _resized(shapes.get(value), (size or 0) + wide.missing)
        derived[wide.output] = derived.get(value, (value, 1.0))
        padded[wide.output] = size or 0
    added = network.added | {wide.output for wide in made.values()}
    return replace(network, steps=tuple(steps), shapes=shapes, derived=derived, padded=padded, added=added)


def _is_dense(step: Linear) -> bool:
    """Whether it is a convolution of all channels."""
    return step.window is not None and step.groups == 1


def _widen(step: Linear) -> Widen:
    return Widen(
        name=step.name,
        operator=step.operator,
        inputs=step.inputs,
        output=f"{step.inputs[0]}/wide",
        nodes=step.nodes,
        missing=-step.weight.shape[1] % TOGETHER,
    )


def _by_channel(step: Step) -> bool:
    return isinstance(step, BY_CHANNEL) or (isinstance(step, Linear) and step.window is not None and step.depthwise)


def _groups(network: Network, joined: Joined) -> Iterable[_Group]:
    values = dict.fromkeys(value for step in network.steps for value in (*step.inputs, step.output))
    for group in joined.groups(values):
        # Behind the first axis: channels of convolutions. Of rows, none are padded.
        sizes = {shape[1] if (shape := network.shapes.get(value)) and len(shape) > 1 else None for value in group}
        yield _Group(group, sizes=set(sizes))


def _look(network: Network, step: Step, groups: Mapping[str, _Group]) -> None:
    """Note what ``step`` means for the values that it reads and makes."""
    touched = [groups[value] for value in (*step.inputs, *step.beside, step.output) if value in groups]
    if isinstance(step, Linear) and step.window is not None and step.depthwise:
        touched[0].alone = True
    elif not _takes_more(network, step):
        for group in touched:
            group.fixed = True


def _takes_more(network: Network, step: Step) -> bool:
    """Whether ``step`` can do with more channels."""
    if isinstance(step, Affine):
        return step.axis is None
    if isinstance(step, ChannelClamp):
        return _is_second(network, step)
    return isinstance(step, BY_CHANNEL) or (isinstance(step, Linear) and _is_dense(step))


def _is_second(network: Network, step: ChannelClamp) -> bool:
    return step.low.size == 1 or (network.rank(step.output) or 0) + step.axis == 1


def _size(group: _Group) -> int | None:
    """How many channels the values of ``group`` are to have; None where they stay as they are."""
    size = next(iter(group.sizes))
    if group.fixed or len(group.sizes) > 1 or not isinstance(size, int) or size < TOGETHER:
        return None
    missing = -size % (ALONE if group.alone else TOGETHER)
    return size + missing if missing else None


def _resized(shape: tuple[Dim, ...] | None, size: int) -> tuple[Dim, ...] | None:
    return None if shape is None else (shape[0], size, *shape[2:])


def _padded(step: Step, wanted: Mapping[str, int]) -> Step:
    if isinstance(step, ChannelClamp) and step.output in wanted and step.low.size > 1:
        missing = wanted[step.output] - step.low.size
        low, high = (
            np.pad(bound, (0, missing), constant_values=free)
            for bound, free in ((step.low, -np.inf), (step.high, np.inf))
        )
        return replace(step, low=low, high=high)
    if not isinstance(step, Linear) or step.window is None:
        return step
    rows = wanted.get(step.output, len(step.weight)) - len(step.weight)
    if step.depthwise:
        return replace(
            step, weight=_more(step.weight, rows), bias=np.pad(step.bias, (0, rows)), groups=step.groups + rows
        )
    columns = wanted.get(step.inputs[0], step.weight.shape[1]) - step.weight.shape[1]
    return replace(step, weight=_more(step.weight, rows, columns), bias=np.pad(step.bias, (0, rows)))


def _more(weight: Array, rows: int, columns: int = 0) -> Array:
    return np.pad(weight, [(0, rows), (0, columns), *[(0, 0)] * (weight.ndim - 2)])
