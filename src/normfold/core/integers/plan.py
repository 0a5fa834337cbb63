"""Which values are codes, which steps run on them, and with what scales."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from normfold.core.algebra.affine import Array
from normfold.core.integers.joined import Joined
from normfold.core.integers.ranges import BYTES, Codes, Grid, Method, Range, Seen
from normfold.core.integers.steps import (
    SHARING,
    Affine,
    AveragePool,
    Clamped,
    Concat,
    Floating,
    GlobalMean,
    Linear,
    Moving,
    Network,
    Sigmoid,
    Step,
    Transposed,
    Widen,
)
from normfold.core.integers.weights import Coder, WeightCodes

UNIT: Final = Codes(1.0 / 256.0, 0)
"""The codes of what lies between 0 and 1, with the scale that integer sigmoids have."""
APART: Final = 16.0
"""How many times wider than another the range of a part of a Concat is, from which on they share no scale."""


@dataclass(frozen=True, eq=False)
class Plan:
    """Steps that run on codes, the codes of values, and the weights; everything else is in floating point."""

    network: Network
    integer: frozenset[Step]
    codes: Mapping[str, Codes]
    weights: Mapping[Step, WeightCodes]
    kept: Mapping[Step, str] = field(default_factory=dict)
    """Why a step that could run on codes does not."""
    grid: Grid = BYTES
    """Of the codes of values."""


def placed(network: Network, kept: Mapping[Step, str]) -> frozenset[Step]:
    """The steps that run on codes: linear ones, and what is made of codes; ``kept`` do not."""
    makers, readers = network.makers(), network.readers()
    integer: set[Step] = set()
    for step in network.steps:
        if step in kept or isinstance(step, Floating | Transposed) or _is_float_map(step) or not _typed(network, step):
            continue
        if isinstance(step, Linear | Transposed | Widen) or all(makers.get(value) in integer for value in step.inputs):
            integer.add(step)
    # What only floating-point steps read is quicker where they are, but for the results of products.
    while True:
        idle = {
            step
            for step in integer
            if not isinstance(step, Linear | Transposed)
            and not any(reader in integer for reader in readers.get(step.output, ()))
            and _is_light(step, makers)
        }
        if not idle:
            return frozenset(integer)
        integer -= idle


def _is_float_map(step: Step) -> bool:
    """Whether ``step`` is a map that no addition to codes can stand for: by channel, or with a scale below zero."""
    return isinstance(step, Affine) and (step.axis is not None or float(step.scale) <= 0)


def _typed(network: Network, step: Step) -> bool:
    """Whether the values are floating point."""
    return (network.floats | network.added).issuperset((*step.inputs, step.output))


def _is_light(step: Step, makers: Mapping[str, Step]) -> bool:
    """Whether ``step`` takes no longer in floating point; what moves the result of a product gets it in either form."""
    if isinstance(step, Moving):
        maker = makers.get(step.inputs[0])
        return isinstance(maker, Moving | Linear) and getattr(maker, "window", None) is None
    return isinstance(step, Clamped | Sigmoid | Widen)


def apart(network: Network, ranges: Mapping[str, Range]) -> dict[Step, str]:
    """Concats whose parts differ so much in range that one scale for all would drown some; to be kept as they are."""
    found: dict[Step, str] = {}
    for step in network.steps:
        if isinstance(step, Concat):
            widths = [ranges[value][1] - ranges[value][0] for value in step.inputs if value in ranges]
            if len(widths) == len(step.inputs) and max(widths) > APART * max(min(widths), 1e-30):
                found[step] = (
                    f"one of its parts has a range {max(widths) / max(min(widths), 1e-30):.0f} times another's"
                )
    return found


def unsized(network: Network) -> dict[Step, str]:
    """Steps that cannot be written on codes, since nobody knows how many axes a value of theirs has."""
    return {
        step: f"the number of axes of {value!r} is not known"
        for step in network.steps
        if not isinstance(step, Floating)
        for value in (step.output, *reversed(step.inputs))
        if network.rank(value) is None
    }


def ranges_of(network: Network, seen: Mapping[str, Seen], method: Method) -> dict[str, Range]:
    """The range of every value with statistics, cut off where its step cuts off."""
    makers = network.makers()
    found = {}
    for value in _values(network):
        statistics = _statistics(network, seen, value)
        if statistics is None:
            continue
        low, high = method(statistics)
        maker = makers.get(value)
        if isinstance(maker, Clamped):
            low, high = (min(max(end, maker.low), maker.high) for end in (low, high))
        found[value] = (low, high)
    return found


def _values(network: Network) -> Iterable[str]:
    return dict.fromkeys([*network.inputs, *(value for step in network.steps for value in (*step.inputs, step.output))])


def _statistics(network: Network, seen: Mapping[str, Seen], value: str) -> Seen | None:
    if value in seen:
        return seen[value]
    source, factor = network.derived.get(value, ("", 1.0))
    return seen[source].times(factor) if source in seen else None


def coded_values(
    network: Network, integer: frozenset[Step], ranges: Mapping[str, Range], grid: Grid = BYTES
) -> dict[str, Codes] | str:
    """The codes of all values that ``integer`` steps read or make; the name of one whose range nobody knows."""
    groups, fixed = Joined(), dict[str, Codes]()
    needed: dict[str, None] = {}
    readers = network.readers()
    for step in network.steps:
        if step not in integer:
            continue
        needed |= dict.fromkeys(step.inputs)
        if not _leaves_codes(step, readers, integer):
            needed[step.output] = None
        # What a mean lies between is known where nothing else is.
        if isinstance(step, SHARING) or (isinstance(step, GlobalMean | AveragePool) and step.output not in ranges):
            groups.join((*step.inputs, step.output))
        unit = _unit(step, grid)
        if unit is not None:
            fixed[step.output] = unit
    found: dict[str, Codes] = {}
    for group in groups.groups(needed):
        known = [ranges[value] for value in group if value in ranges]
        unit = next((fixed[value] for value in group if value in fixed), None)
        if unit is None and not known:
            return group[0]
        codes = unit or Codes.of(min(low for low, _ in known), max(high for _, high in known), grid)
        found |= dict.fromkeys(group, codes)
    return found


def _unit(step: Step, grid: Grid) -> Codes | None:
    """The codes of what always lies between 0 and 1."""
    if isinstance(step, Sigmoid):
        return UNIT if grid == BYTES else Codes.of(0.0, 1.0, grid)
    return Codes.of(0.0, 1.0, grid) if isinstance(step, Affine) and (step.low, step.high) == (0.0, 1.0) else None


def _leaves_codes(step: Step, readers: Mapping[str, Sequence[Step]], integer: frozenset[Step]) -> bool:
    """Whether a product hands its result over in floating point: nobody reads it as codes."""
    if not isinstance(step, Linear) or step.window is not None:
        return False
    clamped = step.low > -math.inf or step.high < math.inf
    return not clamped and not any(reader in integer for reader in readers.get(step.output, ()))


def made_plan(
    network: Network,
    seen: Mapping[str, Seen],
    method: Method,
    kept: Mapping[Step, str] | None = None,
    coder: Coder | None = None,
    grid: Grid = BYTES,
) -> Plan:
    """The plan for ``network`` with ranges by ``method``; what has no known range stays in floating point.

    A ``coder`` is good for any number of plans of one network and one set of statistics.
    """
    coder = coder or Coder()
    ranges = ranges_of(network, seen, method)
    held = dict(kept or {}) | unsized(network) | apart(network, ranges)
    while True:
        integer = placed(network, held)
        codes = coded_values(network, integer, ranges, grid)
        if not isinstance(codes, str):
            break
        unknown = codes
        touching = [step for step in integer if unknown in (*step.inputs, step.output)]
        held |= dict.fromkeys(touching, f"the range of {unknown!r} is not known")
    weights: dict[Step, WeightCodes] = {
        step: coder.coded(step, codes[step.inputs[0]], *_moments(network, seen, step))
        for step in integer
        if isinstance(step, Linear | Transposed)
    }
    return Plan(network, integer, codes, weights, held, grid)


def _moments(
    network: Network, seen: Mapping[str, Seen], step: Linear | Transposed
) -> tuple[Array | None, Array | None]:
    """Mean and mean square by channel of the input of ``step``."""
    found = _statistics(network, seen, step.inputs[0])
    channels = step.groups * step.weight.shape[1]
    if found is None or found.mean is None or found.square is None:
        return None, None
    missing = channels - found.mean.size if step.inputs[0] in network.padded else 0
    mean, square = (np.pad(one, (0, missing)) for one in (found.mean, found.square))
    return (mean, square) if mean.shape == (channels,) else (None, None)
