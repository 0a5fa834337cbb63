"""Timing contenders under one set of conditions: the processes, the gate, and the figures that come of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar

import numpy as np

from normfold.benchmark import gate, statistics
from normfold.benchmark.client import LOCAL, Client
from normfold.benchmark.contender import CONTROL, COPIED_BELOW, Conditions, Contender, Effort, with_batch
from normfold.benchmark.feeds import Fed, Scratch, feed_for
from normfold.benchmark.figures import Cell, Details, Figure, Sample
from normfold.benchmark.schedule import Turn, block_runs, schedule
from normfold.benchmark.session_profile import SessionProfile, Threading, session_request, threading_of
from normfold.engine.probes import Given
from normfold.errors import NormfoldError
from normfold.runtime import gpu

Tell = Callable[[str], None]
T = TypeVar("T")
TRUTH: Final = "(truth)"
PLAIN: Final = SessionProfile(options={"graph_optimization_level": "ORT_DISABLE_ALL"})
"""What the reference's outputs are computed with: the CPU, as the file says, node by node."""
PILOT_RUNS: Final = 3
PROFILED_RUNS: Final = 20


@dataclass(frozen=True, slots=True)
class Task:
    """One call of `measure`."""

    contenders: tuple[Contender, ...]
    conditions: Conditions
    effort: Effort
    given: Given = field(default_factory=Given)
    seed: int = 0
    rtol: float | None = None
    allow_fallback: bool = False
    custom_ops: tuple[str, ...] = ()
    command: tuple[str, ...] = LOCAL
    """What to start for each process: anything that serves the verbs of `normfold.runtime.timing`."""

    @property
    def reference(self) -> Contender:
        """The one that the others are compared with."""
        return self.contenders[0]

    @property
    def names(self) -> tuple[str, ...]:
        """Of everything that is timed, the control included."""
        return (*(one.name for one in self.contenders), *((CONTROL,) if self.effort.control else ()))

    def contender(self, name: str) -> Contender:
        """The one of that name; the control is the reference."""
        return next((one for one in self.contenders if one.name == name), self.reference)

    @property
    def copies(self) -> int:
        """Sessions of each model in each process; one of large models."""
        large = any((one.nbytes or 0) > COPIED_BELOW for one in self.contenders)
        return 1 if large else self.effort.copies

    @property
    def threading(self) -> Threading:
        """How the sessions of one process get their threads."""
        profiles = [one.profile for one in self.contenders]
        return threading_of(profiles, self.conditions.threads, self.conditions.use)

    def session(self, profile: SessionProfile, threading: Threading | None = None) -> dict[str, Any]:
        """What a worker is told of a session."""
        shared = self.threading if threading is None else threading
        return session_request(profile, self.conditions.threads, self.conditions.use, shared, self.custom_ops)

    @property
    def on_gpu(self) -> bool:
        """Whether a provider runs on an NVIDIA GPU, and needs CUDA's libraries."""
        return any(one.profile.provider in ("cuda", "tensorrt", "nvtensorrtrtx") for one in self.contenders)


def measure(task: Task, tell: Tell = lambda _doing: None) -> Cell:
    """The figures of ``task``; what went wrong, if anything, is in ``refused``, and then there are no figures."""
    try:
        return _measure(task, tell)
    except NormfoldError as error:
        return Cell(task.conditions, refused=error)


def _measure(task: Task, tell: Tell) -> Cell:
    gate.check_inputs(task.contenders)
    specs, given = with_batch(task.reference.inputs, task.given, task.conditions.batch)
    task = replace(task, contenders=(replace(task.reference, inputs=specs), *task.contenders[1:]), given=given)
    with ExitStack() as stack:
        scratch = stack.enter_context(Scratch())
        session = Measurement(task, scratch, tell)
        samples = session.samples()
        details = tuple(session.details(one) for one in task.contenders) if task.effort.details else ()
    return assemble(task, samples, session.fed, details)


class Measurement:
    """The processes of one task, one after the other; the first also settles inputs and what outputs should be."""

    def __init__(self, task: Task, scratch: Scratch, tell: Tell) -> None:
        self._task = task
        self._scratch = scratch
        self._tell = tell
        self._fed: Fed | None = None

    @property
    def fed(self) -> Fed:
        """What the models are given, and what the reference makes of it."""
        if self._fed is None:
            raise ValueError("nothing was run yet")
        return self._fed

    def samples(self) -> tuple[Sample, ...]:
        """First as many processes as the first stage has, then as many more as their spread asks for."""
        effort, started = self._task.effort, time.monotonic()
        samples = [self._sample(index, effort.first) for index in range(min(effort.first, effort.most))]
        wanted = min(effort.most, self._wanted(samples))
        while len(samples) < wanted and time.monotonic() - started < effort.seconds:
            samples.append(self._sample(len(samples), wanted))
        return tuple(samples)

    def _client(self) -> Client:
        return Client(time_limit=self._task.effort.time_limit, command=self._task.command)

    def _wanted(self, samples: Sequence[Sample]) -> int:
        if len(samples) < 2:
            return len(samples)
        series = [[sample.level(one.name) for sample in samples] for one in self._task.contenders]
        ratios = [[sample.log_ratio(one.name) for sample in samples] for one in self._task.contenders[1:]]
        return max(statistics.stein_size(values, self._task.effort.half_width) for values in ratios or series)

    def _sample(self, index: int, of: int) -> Sample:
        self._tell(f"timing, process {index + 1} of {of}")
        task, seed = self._task, [task_seed(self._task), index]
        with self._client() as client:
            hello = client.hello(task.conditions.cpus, task.threading.pool, preload=task.on_gpu)
            if self._fed is None:
                self._fed = self._settle(client)
            turns = _shuffled([Turn(name, copy) for name in task.names for copy in range(task.copies)], seed)
            opened = {turn: self._open(client, turn) for turn in turns}
            bound = {turn: client.bind(turn.seat, self.fed.entries) for turn in turns}
            deviations = [(turn.name, self._check(client, turn)) for turn in turns]
            seconds = [(turn.name, _pilot(client, turn.seat, task.effort.warm_up)) for turn in turns]
            plan = schedule(_by_name(seconds, max), task.effort.per_process, seed, task.copies)
            before = gpu.look() if task.on_gpu else ""
            timed = client.time(plan.blocks())
            after = gpu.look() if task.on_gpu else ""
            for turn in turns:
                self._check(client, turn)
        return Sample(
            reference=task.reference.name,
            turns=plan.rounds,
            blocks=plan.by_name(timed["ns"]),
            microjoules=None if timed["microjoules"] is None else plan.by_name([[e] for e in timed["microjoules"]]),
            no_energy=timed["no_energy"],
            onnxruntime=hello["onnxruntime"],
            import_ns=hello["import_ns"],
            cpus=hello["cpus"],
            load_ns=_by_name([(turn.name, reply["load_ns"]) for turn, reply in opened.items()], _median),
            first_run_ns=_by_name([(turn.name, reply["first_run_ns"]) for turn, reply in bound.items()], _median),
            placed={turn.name: reply["placed_by_provider"] for turn, reply in opened.items()},
            deviations=_by_name(deviations, max),
            gpu=(before, after) if task.on_gpu else None,
        )

    def _settle(self, client: Client) -> Fed:
        """Inputs on which the reference runs, and its outputs computed plainly."""
        task = self._task
        plain = task.session(replace(PLAIN, intra_threads=None))
        client.open(TRUTH, task.reference, plain)
        fed = feed_for(client, TRUTH, task.reference.inputs, task.given, task.seed, self._scratch)
        expected = self._scratch.keep(client.outputs(TRUTH))
        client.close(TRUTH)
        return replace(fed, outputs=expected)

    def _open(self, client: Client, turn: Turn) -> dict[str, Any]:
        contender = self._task.contender(turn.name)
        session = self._task.session(contender.profile)
        reply = client.open(turn.seat, contender, session)
        counts = gate.check_placement(
            contender.name, session["provider"], reply["placed"], allow_fallback=self._task.allow_fallback
        )
        return reply | {"placed_by_provider": counts}

    def _check(self, client: Client, turn: Turn) -> float:
        contender = self._task.contender(turn.name)
        return gate.check_outputs(
            contender, self._task.reference, self.fed.outputs, client.outputs(turn.seat), self._task.rtol
        )

    def details(self, contender: Contender) -> Details:
        """Memory and node times, from a process that holds this model alone."""
        self._tell(f"looking into {contender.name}")
        task = self._task
        alone = threading_of([contender.profile], task.conditions.threads, task.conditions.use)
        session = task.session(contender.profile, alone)
        with self._client() as client:
            before = client.hello(task.conditions.cpus, alone.pool, preload=task.on_gpu)["peak_rss"]
            client.open(contender.name, contender, session)
            after = client.bind(contender.name, self.fed.entries)["peak_rss"]
            client.close(contender.name)
            profiled = client.profile(contender, session, self.fed.entries, PROFILED_RUNS)
        return Details(
            peak_rss=after,
            rss_before=before,
            arena_peak=profiled["arena_peak"],
            arena_size=profiled["arena_size"],
            nodes=tuple(map(tuple, profiled["nodes"])),
        )


def task_seed(task: Task) -> int:
    """Different for different conditions, so that no two cells share their orders."""
    return task.seed * 1_000_003 + task.conditions.threads * 1009 + (task.conditions.batch or 0)


def _shuffled(turns: list[Turn], seed: Sequence[int]) -> list[Turn]:
    return [turns[position] for position in np.random.default_rng(seed).permutation(len(turns))]


def _by_name(pairs: Iterable[tuple[str, T]], pick: Callable[[list[T]], T]) -> dict[str, T]:
    """One value of each name, picked among those of its copies."""
    collected: dict[str, list[T]] = {}
    for name, value in pairs:
        collected.setdefault(name, []).append(value)
    return {name: pick(values) for name, values in collected.items()}


def _median(values: list[int]) -> int:
    return int(np.median(values))


def _pilot(client: Client, name: str, seconds: float) -> float:
    """Warm the model up for about ``seconds``; seconds that a run takes by then."""
    first = client.time([(name, PILOT_RUNS)])["ns"][0]
    one = max(min(first) / 1e9, 1e-7)
    runs = max(block_runs(one), min(round(seconds / one), 10_000)) if one < seconds else 1
    return max(float(np.median(client.time([(name, runs)])["ns"][0])) / 1e9, 1e-7)


def assemble(task: Task, samples: Sequence[Sample], fed: Fed, details: Sequence[Details]) -> Cell:
    """The figures that the samples support."""
    effort, names = task.effort, [one.name for one in task.contenders]
    control = _ratio(samples, CONTROL, effort) if effort.control else None
    figures = tuple(
        Figure.of(name, samples, effort.first, details[index] if details else None) for index, name in enumerate(names)
    )
    comparisons = {
        name: statistics.judge(_ratio(samples, name, effort), control, effort.threshold) for name in names[1:]
    }
    return Cell(
        task.conditions,
        figures=figures,
        comparisons=comparisons,
        control=None if control is None else control.exp(),
        samples=tuple(samples),
        probes=fed.probes,
        warnings=tuple(_warnings(task, samples, control, fed)),
    )


def _ratio(samples: Sequence[Sample], name: str, effort: Effort) -> statistics.Interval:
    return statistics.stein_interval([sample.log_ratio(name) for sample in samples], effort.first)


def _warnings(task: Task, samples: Sequence[Sample], control: statistics.Interval | None, fed: Fed) -> list[str]:
    found = [task.threading.note] if task.threading.note else []
    unsteady = sum(sample.steady is None for sample in samples)
    if unsteady:
        found.append(f"{unsteady} of {len(samples)} processes never ran steadily: all their rounds are used")
    if control is not None and not control.low <= 0.0 <= control.high:
        found.append("two copies of the reference read as different: the machine is not quiet, or it is chance")
    guessed = [probe.name for probe in fed.probes if "guessed" in probe.made]
    if guessed:
        found.append(f"sizes were guessed for {', '.join(guessed)}: state them with --input")
    elsewhere = {name for sample in samples for name, counts in sample.placed.items() if len(counts) > 1}
    if elsewhere - {CONTROL}:
        found.append(f"nodes of {', '.join(sorted(elsewhere - {CONTROL}))} run on more than one execution provider")
    return found
