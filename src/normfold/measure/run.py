"""Timing candidates under one set of conditions: the figures, or the error because of which there are none."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

from normfold.errors import NormfoldError
from normfold.measure import checks, statistics
from normfold.measure.candidate import CONTROL, Conditions, Effort, with_batch
from normfold.measure.experiment import Experiment
from normfold.measure.figures import Cell, Details, Emulation, Figure, Reading, Sample, instructions
from normfold.measure.inputs import ArrayFolder, PreparedInputs
from normfold.measure.processes import Measurement
from normfold.records import Progress, silent

REPEATS: Final = 1e-4
"""What counts of the same run may differ by, relatively, without a word."""
BUSY: Final = 0.5
"""Load average, in processors, from which the machine counts as busy."""


def measure(experiment: Experiment, progress: Progress = silent) -> Cell:
    """The figures of ``experiment``, or none and the error in ``refused``."""
    try:
        return _measure(experiment, progress)
    except NormfoldError as error:
        return Cell(experiment.conditions, refused=error)


def _measure(experiment: Experiment, progress: Progress) -> Cell:
    checks.check_inputs(experiment.candidates)
    experiment.target.check_threads(
        max(
            max(one.profile.intra_threads or experiment.conditions.threads, one.profile.inter_threads)
            for one in experiment.candidates
        )
    )
    specs, given = with_batch(experiment.reference.inputs, experiment.given, experiment.conditions.batch)
    experiment = replace(
        experiment, candidates=(replace(experiment.reference, inputs=specs), *experiment.candidates[1:]), given=given
    )
    load = os.getloadavg()[0]
    with ArrayFolder() as folder:
        work = Measurement(experiment, folder, progress)
        if experiment.kind != "measured":
            return _read(experiment, work.emulations(), work.inputs)
        samples = work.samples()
        details = work.all_details()
    return _assemble(experiment, samples, work.inputs, details, load)


def _read(experiment: Experiment, emulations: Sequence[Emulation], inputs: PreparedInputs) -> Cell:
    """What processes without a clock found."""
    names, kind = [one.name for one in experiment.candidates], experiment.kind
    totals = [{name: math.log(instructions(counts)) for name, counts in one.counts.items()} for one in emulations]
    comparisons = {
        name: statistics.judge(
            statistics.stein_interval([one[name] - one[names[0]] for one in totals], len(totals)),
            None,
            experiment.effort.threshold,
            counted=True,
        )
        for name in (names[1:] if kind == "counted" else ())
    }
    return Cell(
        experiment.conditions,
        comparisons=comparisons,
        readings=tuple(reading for name in names for reading in Reading.of(name, kind, emulations)),
        emulations=tuple(emulations),
        kind=kind,
        probes=inputs.probes,
        warnings=(*_about_the_inputs(inputs), *_about_the_counts(totals), *_about_the_emulator(names, emulations)),
    )


def _assemble(
    experiment: Experiment, samples: Sequence[Sample], inputs: PreparedInputs, details: Sequence[Details], load: float
) -> Cell:
    """The figures that the samples support."""
    effort, names = experiment.effort, [one.name for one in experiment.candidates]
    control = _ratio(samples, CONTROL, effort) if effort.control else None
    figures = tuple(
        Figure.of(name, samples, effort.first, details[index] if details else None, experiment.deadline)
        for index, name in enumerate(names)
    )
    comparisons = {
        name: statistics.judge(_ratio(samples, name, effort), control, effort.threshold) for name in names[1:]
    }
    return Cell(
        experiment.conditions,
        figures=figures,
        comparisons=comparisons,
        control=None if control is None else control.exp(),
        samples=tuple(samples),
        kind=experiment.target.kind,
        probes=inputs.probes,
        warnings=(
            *(() if experiment.target.remote else _about_the_machine(experiment.conditions, load)),
            *_about_the_processes(samples, control),
            *_about_the_time(effort, samples, details),
            *_about_the_models(experiment, samples, inputs),
        ),
    )


def _ratio(samples: Sequence[Sample], name: str, effort: Effort) -> statistics.Interval:
    return statistics.stein_interval([sample.log_ratio(name) for sample in samples], effort.first)


def _about_the_machine(conditions: Conditions, load: float) -> Iterator[str]:
    processors = len(conditions.cpus) or os.cpu_count() or 1
    if load > BUSY:
        yield f"the machine was busy before the measurement: load average {load:.1f} on {os.cpu_count()} processors"
    if conditions.threads > processors:
        yield f"{conditions.threads} threads share {processors} processors"


def _about_the_processes(samples: Sequence[Sample], control: statistics.Interval | None) -> Iterator[str]:
    unsteady = sum(sample.steady is None for sample in samples)
    if unsteady:
        yield f"{unsteady} of {len(samples)} processes never reached a steady state: all their rounds are used"
    if control is not None and not control.low <= 0.0 <= control.high:
        yield "two copies of the reference measure as different: the machine is noisy, or it is chance"


def _about_the_time(effort: Effort, samples: Sequence[Sample], details: Sequence[Details]) -> Iterator[str]:
    if len(samples) < effort.first:
        yield f"there was time for {len(samples)} of {effort.first} processes: --time-limit allows more"
    if effort.details and not details:
        yield "there was no time to measure memory and nodes: --time-limit allows more, --no-details leaves them out"


def _about_the_models(experiment: Experiment, samples: Sequence[Sample], inputs: PreparedInputs) -> Iterator[str]:
    if experiment.threading.note:
        yield experiment.threading.note
    if any(one.profile.computes_in_tf32 for one in experiment.candidates):
        yield "float32 products are rounded to TF32; the provider option use_tf32=0 turns that off"
    yield from _about_the_inputs(inputs)
    elsewhere = {name for sample in samples for name, counts in sample.placed.items() if len(counts) > 1} - {CONTROL}
    if elsewhere:
        yield f"nodes of {', '.join(sorted(elsewhere))} run on more than one execution provider"


def between(cell: Cell, effort: Effort, first: str, second: str) -> statistics.Comparison:
    """Time of ``second`` over that of ``first``, two candidates of a cell that has figures."""
    logs = [sample.log_ratio(second) - sample.log_ratio(first) for sample in cell.samples]
    control = _ratio(cell.samples, CONTROL, effort) if effort.control else None
    return statistics.judge(statistics.stein_interval(logs, effort.first), control, effort.threshold)


def _about_the_counts(totals: Sequence[Mapping[str, float]]) -> Iterator[str]:
    """``totals``: logarithms by candidate, of each process."""
    for name in totals[0]:
        found = [one[name] for one in totals]
        if max(found) - min(found) > REPEATS:
            yield f"counts of {name} differ by {max(found) - min(found):.1e} between two processes"


def _about_the_emulator(names: Sequence[str], emulations: Sequence[Emulation]) -> Iterator[str]:
    for name in names:
        if any(name not in one.deviations for one in emulations):
            yield f"{name} is compiled, but does not run in the emulator"


def _about_the_inputs(inputs: PreparedInputs) -> Iterator[str]:
    guessed = [probe.name for probe in inputs.probes if "guessed" in probe.made]
    if guessed:
        yield f"sizes were guessed for {', '.join(guessed)}: state them with --shape"
