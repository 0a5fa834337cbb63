"""How long models take beside their source, by bench's statistics."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Final

from normfold import limits
from normfold.measure.candidate import Candidate, Conditions, Effort, open_candidate
from normfold.measure.experiment import Experiment
from normfold.measure.figures import Cell
from normfold.measure.run import measure
from normfold.measure.statistics import Interval
from normfold.models.data import UserInputs
from normfold.passes.quantize.figures import Bounds, Latency
from normfold.records import Progress
from normfold.runtime import Runnable
from normfold.runtime.providers import DEFAULT
from normfold.runtime.session_profile import SessionProfile

SECONDS: Final = 40.0
"""For the processes of one comparison, at most."""
SHARE: Final = 0.5
"""Part of the time that is left for one comparison."""
ANY: Final = 1e9
"""Tolerance of the outputs, whose deviation was verified before."""
REFERENCE: Final = "source"
ROUGHLY: Final = 0.5
"""Seconds of timed runs where only the nodes matter."""
GELU: Final = "Gelu"


@dataclass(frozen=True, slots=True)
class Timed:
    """The time of a model over that of its source, and the milliseconds that its nodes take."""

    latency: Latency
    nodes: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Setting:
    """How models are timed."""

    conditions: Conditions
    given: UserInputs
    seed: int
    progress: Progress
    ep: str = DEFAULT


def times(
    source: Runnable, models: Sequence[Runnable], setting: Setting, *, roughly: bool = False
) -> tuple[Mapping[str, float], list[Timed]]:
    """The milliseconds of the nodes of ``source``, and the times of ``models`` beside it, in fresh processes, in turns.

    ``roughly`` is for what the nodes take: one process.

    Raises:
        NormfoldError: one of them cannot be timed.
    """
    conditions, left = setting.conditions, limits.remaining()
    effort = Effort(time_limit=SECONDS if left is None else min(SECONDS, SHARE * left))
    if roughly:
        effort = replace(effort, first=1, most=1, per_process=ROUGHLY, copies=1, control=False)
    profile = SessionProfile(provider=setting.ep)
    with ExitStack() as stack:
        candidates = [stack.enter_context(open_candidate(source.file, REFERENCE, profile))]
        candidates += [stack.enter_context(open_candidate(one.file, str(i), profile)) for i, one in enumerate(models)]
        experiment = Experiment(_named(candidates), conditions, effort, setting.given, seed=setting.seed, rtol=ANY)
        cell = measure(experiment, setting.progress)
    if cell.refused is not None:
        raise cell.refused
    before = cell.figure(REFERENCE).latency.value / 1e6
    timed = [
        Timed(
            Latency(
                _bounds(comparison.ratio),
                comparison.verdict,
                conditions.threads,
                conditions.batch,
                before,
                cell.figure(name).latency.value / 1e6,
            ),
            _nodes(cell, name),
        )
        for name, comparison in cell.comparisons.items()
        if name != REFERENCE
    ]
    return _nodes(cell, REFERENCE), timed


def _nodes(cell: Cell, name: str) -> dict[str, float]:
    """Milliseconds by node; empty where there was no time to look."""
    details = cell.figure(name).details
    return {} if details is None else {node: micro / 1e3 for node, _, _, _, micro in details.nodes}


def by_operation(
    names: Iterable[str], nodes: Mapping[str, float], activations: Collection[str] = ()
) -> dict[str, float]:
    """The milliseconds of operations: those of the nodes called like them, or like what was made of them.

    ``activations`` are the GELUs among ``names``.
    """
    longest_first = sorted(set(names), key=len, reverse=True)
    found = dict.fromkeys(longest_first, 0.0)
    unowned = 0.0
    for node, milliseconds in nodes.items():
        owner = next((name for name in longest_first if node == name or node.startswith(_beginnings(name))), None)
        if owner is not None:
            found[owner] += milliseconds
        elif GELU in node:
            unowned += milliseconds
    # ONNX Runtime makes one operation of those that GELU was written in, and gives it a name of its own.
    without = [name for name in dict.fromkeys(activations) if not found.get(name, 1.0)]
    return found | {name: unowned / len(without) for name in without}


def _beginnings(name: str) -> tuple[str, ...]:
    return tuple(f"{name}{mark}" for mark in "/_ ")


def _named(candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    return tuple(candidates)


def _bounds(interval: Interval) -> Bounds:
    return Bounds(interval.value, interval.low, interval.high)
