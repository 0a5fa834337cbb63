"""Samples, and the figures computed from them. Times are in nanoseconds throughout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from normfold.errors import NormfoldError
from normfold.measure import statistics
from normfold.measure.candidate import Conditions
from normfold.measure.deadline import Deadline, Punctuality
from normfold.measure.schedule import Turn
from normfold.measure.statistics import Comparison, Floats, Interval, Quantile
from normfold.records import Probe
from normfold.runtime.targets import FigureKind

GpuState = Sequence[Mapping[str, str]] | str
Blocks = Mapping[str, Sequence[Sequence[int]]]


@dataclass(frozen=True)
class Sample:
    """One process: nanoseconds of every run, by candidate and round, and the times of import, load and first run."""

    reference: str
    turns: Sequence[Sequence[Turn]]
    blocks: Blocks
    microjoules: Blocks | None
    no_energy: str | None
    onnxruntime: str
    import_ns: int
    machine: Mapping[str, Any]
    """The target's architecture, processor and the like, as far as it knows them."""
    runtime_bytes: int
    """Size of ONNX Runtime, as an application brings it along."""
    cpus: Sequence[int] | None
    load_ns: Mapping[str, int]
    first_run_ns: Mapping[str, int]
    placed: Mapping[str, Mapping[str, int]]
    deviations: Mapping[str, float]
    gpu: tuple[GpuState, GpuState] | None = None
    """Clocks, power and throttle reasons before and after, or why they are unknown; None off the GPU."""

    @cached_property
    def medians(self) -> dict[str, Floats]:
        """Median of every block, by candidate."""
        return {name: statistics.block_medians(blocks) for name, blocks in self.blocks.items()}

    @cached_property
    def steady(self) -> int | None:
        """First round that counts; None where the process never ran steadily, and all are used."""
        logs = np.mean([np.log(values) for values in self.medians.values()], axis=0)
        return statistics.steady_from(logs)

    def used(self, name: str) -> Floats:
        """Block medians of the rounds that count."""
        return self.medians[name][self.steady or 0 :]

    def level(self, name: str) -> float:
        """Logarithm of the candidate's latency in this process."""
        return float(np.log(np.median(self.used(name))))

    def log_ratio(self, name: str) -> float:
        """Of the candidate to the reference, in this process."""
        return statistics.log_ratio(self.used(self.reference), self.used(name))

    def runs(self, name: str) -> list[int]:
        """Nanoseconds of every run in the rounds that count."""
        return [run for block in self.blocks[name][self.steady or 0 :] for run in block]


@dataclass(frozen=True, slots=True)
class Details:
    """Memory in bytes and time of each node, from a process that holds one model alone."""

    peak_rss: int | None
    rss_before: int | None
    """Peak before the model was opened."""
    arena_peak: int | None
    arena_size: int | None
    nodes: tuple[tuple[str, str, str, int, float], ...]
    """Name, operator, provider, runs, microseconds a run; longest first."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One candidate under one set of conditions."""

    name: str
    latency: Interval
    quantiles: tuple[Quantile, ...]
    runs: int
    outliers: int
    """Blocks beyond the outer fence of their process."""
    import_ns: float
    load_ns: float
    first_run_ns: float
    placed: Mapping[str, int]
    deviation: float
    """Largest, from the reference's outputs, relative to their range."""
    microjoules: float | None
    """Energy of one run, of the whole processor package."""
    no_energy: str | None
    details: Details | None = None
    punctuality: Punctuality | None = None
    """None where no deadline was given."""

    @classmethod
    def of(
        cls,
        name: str,
        samples: Sequence[Sample],
        first: int,
        details: Details | None = None,
        deadline: Deadline | None = None,
    ) -> Figure:
        """The figures of ``name`` from ``samples``."""
        levels = [sample.level(name) for sample in samples]
        runs = [run for sample in samples for run in sample.runs(name)]
        return cls(
            name=name,
            latency=statistics.stein_interval(levels, first).exp(),
            quantiles=statistics.quantiles(runs),
            runs=len(runs),
            outliers=sum(len(statistics.outliers(np.log(sample.used(name)))) for sample in samples),
            import_ns=float(np.median([sample.import_ns for sample in samples])),
            load_ns=float(np.median([sample.load_ns[name] for sample in samples])),
            first_run_ns=float(np.median([sample.first_run_ns[name] for sample in samples])),
            placed=samples[0].placed[name],
            deviation=max(sample.deviations[name] for sample in samples),
            microjoules=_energy(name, samples),
            no_energy=samples[0].no_energy,
            details=details,
            punctuality=None if deadline is None else Punctuality.of(deadline, runs),
        )


def _energy(name: str, samples: Sequence[Sample]) -> float | None:
    used = [sample.microjoules[name] for sample in samples if sample.microjoules is not None]
    if not used:
        return None
    runs = sum(len(block) for sample in samples for block in sample.blocks[name])
    return sum(block[0] for blocks in used for block in blocks) / runs


@dataclass(frozen=True, slots=True)
class Compiled:
    """What a compiler for another processor makes of a model."""

    context_bytes: int
    """Size of what it writes for that processor."""
    operators: Mapping[str, Mapping[str, int]]
    """By execution provider: how many nodes of each operator it takes."""
    elsewhere: tuple[tuple[str, str], ...]
    """Name and operator of each node that the processor does not run."""


@dataclass(frozen=True, slots=True)
class Emulation:
    """One process of a target without a clock."""

    onnxruntime: str
    machine: Mapping[str, Any]
    """What the target says of itself."""
    runtime_bytes: int
    placed: Mapping[str, Mapping[str, int]]
    deviations: Mapping[str, float]
    """By candidate; without those that are compiled, and do not run in the emulator."""
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """By candidate: instructions of a run by class, and bytes; empty where they are not counted."""
    compiled: Mapping[str, Compiled] = field(default_factory=dict)
    """By candidate; empty where nothing is compiled."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What is known of one candidate without a clock."""

    name: str
    kind: FigureKind
    placed: Mapping[str, int]
    deviation: float | None
    """Largest, from the same model's outputs on this machine, relative to their range; None where only compiled."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Of a run: instructions by class, ``bytes_loaded`` and ``bytes_stored``; empty where they are not counted."""
    compiled: Compiled | None = None

    @classmethod
    def of(cls, name: str, kind: FigureKind, emulations: Sequence[Emulation]) -> tuple[Reading, ...]:
        """The first process's counts, or what was compiled, and the largest deviation of all."""
        first, found = emulations[0], [one.deviations[name] for one in emulations if name in one.deviations]
        placed = first.placed[name]
        if kind == "compiled":
            compiled = cls(name, kind, placed, None, compiled=first.compiled[name])
            return compiled, *(cls(name, "emulated", placed, deviation) for deviation in found[:1])
        return (cls(name, kind, placed, max(found), first.counts.get(name, {})),)


def instructions(counts: Mapping[str, int]) -> int:
    """Those of all classes."""
    return sum(count for name, count in counts.items() if not name.startswith("bytes"))


@dataclass(frozen=True, slots=True)
class Cell:
    """The figures for one set of conditions, or the error because of which there are none.

    ``comparisons`` are with the first candidate, ``control`` is its second copy's time over its own. A target without a
    clock has ``readings`` from its ``emulations`` instead of figures from samples.
    """

    conditions: Conditions
    refused: NormfoldError | None = None
    figures: tuple[Figure, ...] = ()
    comparisons: Mapping[str, Comparison] = field(default_factory=dict)
    control: Interval | None = None
    samples: tuple[Sample, ...] = ()
    readings: tuple[Reading, ...] = ()
    emulations: tuple[Emulation, ...] = ()
    kind: FigureKind = "measured"
    probes: tuple[Probe, ...] = ()
    warnings: tuple[str, ...] = ()

    def figure(self, name: str) -> Figure:
        """The figure of that name; raises `KeyError`."""
        return {figure.name: figure for figure in self.figures}[name]
