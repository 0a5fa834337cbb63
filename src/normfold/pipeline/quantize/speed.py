"""How long models take beside their source, by bench's statistics."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Final

from normfold import limits
from normfold.measure.candidate import Candidate, Conditions, Effort, open_candidate
from normfold.measure.experiment import Experiment
from normfold.measure.run import measure
from normfold.measure.statistics import Interval
from normfold.models.data import UserInputs
from normfold.passes.quantize.figures import Bounds, Latency
from normfold.records import Progress
from normfold.runtime import Runnable

SECONDS: Final = 40.0
"""For the processes of one comparison, at most."""
SHARE: Final = 0.5
"""Part of the time that is left for one comparison."""
ANY: Final = 1e9
"""Tolerance of the outputs, whose deviation was verified before."""
REFERENCE: Final = "source"


def times(
    source: Runnable,
    models: Sequence[Runnable],
    conditions: Conditions,
    given: UserInputs,
    seed: int,
    progress: Progress,
) -> list[Latency]:
    """The time of each of ``models`` over that of ``source``, in fresh processes, in turns.

    Raises:
        NormfoldError: one of them cannot be timed.
    """
    left = limits.remaining()
    effort = Effort(time_limit=SECONDS if left is None else min(SECONDS, SHARE * left), details=False)
    with ExitStack() as stack:
        candidates = [stack.enter_context(open_candidate(source.file, REFERENCE))]
        candidates += [stack.enter_context(open_candidate(one.file, str(i))) for i, one in enumerate(models)]
        experiment = Experiment(_named(candidates), conditions, effort, given, seed=seed, rtol=ANY)
        cell = measure(experiment, progress)
    if cell.refused is not None:
        raise cell.refused
    before = cell.figure(REFERENCE).latency.value / 1e6
    return [
        Latency(
            _bounds(comparison.ratio),
            comparison.verdict,
            conditions.threads,
            conditions.batch,
            before,
            cell.figure(name).latency.value / 1e6,
        )
        for name, comparison in cell.comparisons.items()
        if name != REFERENCE
    ]


def _named(candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    return tuple(candidates)


def _bounds(interval: Interval) -> Bounds:
    return Bounds(interval.value, interval.low, interval.high)
