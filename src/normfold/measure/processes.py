"""The processes of one task: opening, checking and timing models in each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Final, TypeVar

import numpy as np

from normfold.measure import gate, statistics
from normfold.measure.client import Client
from normfold.measure.contender import Contender
from normfold.measure.feeds import Fed, Scratch, feed_for
from normfold.measure.figures import Details, Sample
from normfold.measure.schedule import Turn, block_runs, schedule
from normfold.measure.session_profile import SessionProfile, threading_of
from normfold.measure.task import Task
from normfold.records import Progress
from normfold.runtime import gpu

T = TypeVar("T")
TRUTH: Final = "(truth)"
PLAIN: Final = SessionProfile(options={"graph_optimization_level": "ORT_DISABLE_ALL"})
"""What the reference's outputs are computed with: the CPU, as the file says, node by node."""
PILOT_RUNS: Final = 3
PROFILED_RUNS: Final = 20
COARSE_COUNTER: Final = "a GPU's energy counter is too coarse for blocks of milliseconds"


class Measurement:
    """The processes of one task, one after the other; the first also settles inputs and what outputs should be."""

    def __init__(self, task: Task, scratch: Scratch, progress: Progress) -> None:
        self._task = task
        self._scratch = scratch
        self._progress = progress
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
        self._progress(f"timing, process {index + 1} of {of}")
        task, seed = self._task, [self._task.entropy, index]
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
            energy = None if task.on_gpu else timed["microjoules"]
            for turn in turns:
                self._check(client, turn)
        return Sample(
            reference=task.reference.name,
            turns=plan.rounds,
            blocks=plan.by_name(timed["ns"]),
            microjoules=None if energy is None else plan.by_name([[used] for used in energy]),
            no_energy=COARSE_COUNTER if task.on_gpu else timed["no_energy"],
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
        self._progress(f"looking into {contender.name}")
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
