"""The processes of one experiment: opening, checking and timing models in each."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Final, TypeVar

import numpy as np

from normfold import limits
from normfold.errors import EnvironmentUnavailableError, FindingError, UsageError
from normfold.measure import checks, statistics
from normfold.measure.candidate import Candidate
from normfold.measure.divergence import first_divergence
from normfold.measure.experiment import Experiment
from normfold.measure.figures import Compiled, Details, Emulation, Sample
from normfold.measure.inputs import ArrayFolder, PreparedInputs, prepare_inputs
from normfold.measure.schedule import Turn, block_runs, schedule
from normfold.records import Progress
from normfold.runtime import gpu
from normfold.runtime.providers import is_emulated
from normfold.runtime.session_profile import SessionProfile, threading_of
from normfold.runtime.targets.timing_client import TimingClient
from normfold.runtime.workers.process import Failed

T = TypeVar("T")
EXPECTED: Final = "(expected)"
PLAIN: Final = SessionProfile(options={"graph_optimization_level": "ORT_DISABLE_ALL"})
"""Settings with which the expected outputs are computed: on the CPU, without optimisations."""
NO_PROFILE: Final[dict[str, Any]] = {"arena_peak": None, "arena_size": None, "nodes": ()}
FEWEST: Final = 2
"""Processes without which there is no interval: a second one is begun in any case."""
PILOT_RUNS: Final = 3
PROFILED_RUNS: Final = 20
COARSE_COUNTER: Final = "a GPU's energy counter is too coarse for blocks of milliseconds"


class Measurement:
    """The processes of one experiment, one after the other; the first also settles inputs and expected outputs."""

    def __init__(self, experiment: Experiment, folder: ArrayFolder, progress: Progress) -> None:
        self._experiment = experiment
        self._folder = folder
        self._progress = progress
        self._inputs: PreparedInputs | None = None

    @property
    def inputs(self) -> PreparedInputs:
        """The inputs, and the outputs expected for them."""
        if self._inputs is None:
            raise ValueError("no process has run yet")
        return self._inputs

    def samples(self) -> tuple[Sample, ...]:
        """First as many processes as the first stage has, then as many more as their spread asks for.

        Fewer where there is no time for another: two, unless the job's own time is up after the first.

        Raises:
            NormfoldError: a model cannot be timed; ``timed-out``, the job's own time is up before the first is done.
        """
        effort, samples, longest = self._experiment.effort, list[Sample](), 0.0
        until = time.monotonic() + effort.time_limit
        wanted = min(effort.first, effort.most)
        while len(samples) < wanted:
            began = time.monotonic()
            if len(samples) >= FEWEST and began + longest > until:
                break
            try:
                samples.append(self._sample(len(samples), wanted))
            except EnvironmentUnavailableError as error:
                if limits.remaining() != 0:
                    raise
                if not samples:
                    raise _nothing_done(time.monotonic() - began) from error
                break
            longest = max(longest, time.monotonic() - began)
            if len(samples) == effort.first:
                wanted = min(effort.most, self._wanted(samples))
        return tuple(samples)

    def emulations(self) -> tuple[Emulation, ...]:
        """The processes of a target without a clock: two where it counts, to see that counts repeat, else one.

        Raises:
            NormfoldError: a model cannot be run there.
        """
        wanted = FEWEST if self._experiment.kind == "counted" else 1
        return tuple(self._emulation(index, wanted) for index in range(wanted))

    def _emulation(self, index: int, of: int) -> Emulation:
        experiment, placed, deviations, counts, compiled = self._experiment, {}, {}, {}, {}
        with self._client() as client:
            hello = self._hello(client, 0)
            self._settle_inputs(client)
            for one in experiment.candidates:
                self._progress(f"running {one.name}, process {index + 1} of {of}")
                turn = Turn(one.name, 0)
                opened = self._open(client, turn)
                placed[one.name] = opened["placed_by_provider"]
                ran = client.try_to_bind(turn.session, self.inputs.entries)
                if not isinstance(ran, Failed):
                    deviations[one.name] = self._check(client, turn)
                elif ran.kind != "run" or experiment.kind != "compiled":
                    raise ran.error(turn.session)
                if experiment.kind == "counted":
                    counts[one.name] = client.count(turn.session)
                client.close(turn.session)
                if experiment.kind == "compiled":
                    # What the emulator does not run may be compiled nevertheless.
                    compiled[one.name] = self._compiled(client, one, opened["placed"])
        about = hello["onnxruntime"], hello["machine"], hello["runtime_bytes"]
        return Emulation(*about, placed, deviations, counts, compiled)

    def _compiled(self, client: TimingClient, candidate: Candidate, placed: checks.Placed) -> Compiled:
        """What the provider's compiler makes of ``candidate``, whose nodes went to the providers in ``placed``."""
        session = self._session(candidate)
        operators: dict[str, Counter[str]] = {}
        for _name, operator, provider in placed:
            operators.setdefault(provider, Counter())[operator] += 1
        elsewhere = tuple((name, operator) for name, operator, provider in placed if provider != session["provider"])
        return Compiled(client.compile(candidate.model, session), operators, elsewhere)

    def _session(self, candidate: Candidate) -> dict[str, Any]:
        """The settings of a session of ``candidate``; compilers for other processors take no dynamic dimensions."""
        session = self._experiment.session(candidate.profile)
        if self._experiment.kind != "compiled":
            return session
        shapes = {probe.name: probe.shape for probe in self.inputs.probes}
        pairs = [pair for spec in candidate.declared for pair in zip(spec.shape or (), shapes[spec.name], strict=False)]
        return session | {"dimensions": {name: size for name, size in pairs if isinstance(name, str)}}

    @property
    def _per_process(self) -> float:
        """Seconds of timed runs in each process: half of the time is for the first stage."""
        effort = self._experiment.effort
        return min(effort.per_process, effort.time_limit / (2 * effort.first))

    def _client(self) -> TimingClient:
        return TimingClient(time_limit=self._experiment.effort.worker_timeout, target=self._experiment.target)

    def _wanted(self, samples: Sequence[Sample]) -> int:
        if len(samples) < 2:
            return len(samples)
        series = [[sample.level(one.name) for sample in samples] for one in self._experiment.candidates]
        ratios = [[sample.log_ratio(one.name) for sample in samples] for one in self._experiment.candidates[1:]]
        return max(statistics.stein_size(values, self._experiment.effort.half_width) for values in ratios or series)

    def _sample(self, index: int, of: int) -> Sample:
        self._progress(f"timing, process {index + 1} of {of}")
        experiment, seed = self._experiment, [self._experiment.entropy, index]
        with self._client() as client:
            hello = self._hello(client, experiment.threading.pool)
            self._settle_inputs(client)
            turns = _shuffled(
                [Turn(name, copy) for name in experiment.names for copy in range(experiment.copies)], seed
            )
            opened = {turn: self._open(client, turn) for turn in turns}
            bound = {turn: client.bind(turn.session, self.inputs.entries) for turn in turns}
            deviations = [(turn.name, self._check(client, turn)) for turn in turns]
            seconds = [(turn.name, _pilot(client, turn.session, experiment.effort.warm_up)) for turn in turns]
            plan = schedule(_by_name(seconds, max), self._per_process, seed, experiment.copies)
            watched = experiment.on_gpu and not experiment.target.remote
            before = gpu.look() if watched else ""
            timed = client.time(plan.blocks())
            after = gpu.look() if watched else ""
            energy = None if experiment.on_gpu else timed["microjoules"]
            for turn in turns:
                self._check(client, turn)
        return Sample(
            reference=experiment.reference.name,
            turns=plan.rounds,
            blocks=plan.by_name(timed["ns"]),
            microjoules=None if energy is None else plan.by_name([[used] for used in energy]),
            no_energy=COARSE_COUNTER if experiment.on_gpu else timed["no_energy"],
            onnxruntime=hello["onnxruntime"],
            machine=hello["machine"],
            runtime_bytes=hello["runtime_bytes"],
            import_ns=hello["import_ns"],
            cpus=hello["cpus"],
            load_ns=_by_name([(turn.name, reply["load_ns"]) for turn, reply in opened.items()], _median),
            first_run_ns=_by_name([(turn.name, reply["first_run_ns"]) for turn, reply in bound.items()], _median),
            placed={turn.name: reply["placed_by_provider"] for turn, reply in opened.items()},
            deviations=_by_name(deviations, max),
            gpu=(before, after) if watched else None,
        )

    def _hello(self, client: TimingClient, pool: int) -> dict[str, Any]:
        where, experiment = self._experiment.conditions, self._experiment
        providers = sorted({one.profile.provider for one in experiment.candidates})
        hello = client.hello(where.cpus, pool, threads=where.threads, preload=experiment.on_gpu, providers=providers)
        architecture = hello["machine"]["architecture"]
        for one in experiment.candidates if experiment.kind == "measured" else ():
            if is_emulated(one.profile.provider, architecture):
                message = f"{experiment.target.name} only emulates {one.profile.provider}: it cannot be timed there."
                raise UsageError("target-unsupported", message)
        return hello

    def _settle_inputs(self, client: TimingClient) -> None:
        """Choose the inputs where no process has before; ``client`` is to help where it knows this disk."""
        if self._inputs is None:
            away = self._experiment.target.travels or self._experiment.kind != "measured"
            self._inputs = self._settled_here() if away else self._settle(client)

    def _settled_here(self) -> PreparedInputs:
        """The same in a process of this machine, with what every candidate should give on the target."""
        experiment = self._experiment
        with TimingClient(time_limit=experiment.effort.worker_timeout) as client:
            client.hello((), 0)
            inputs = self._settle(client)
            own = {one.name: self._computed_here(client, one, inputs) for one in experiment.candidates}
        for one in experiment.candidates:
            checks.check_outputs(one, experiment.reference, inputs.outputs, own[one.name], experiment.rtol)
        return replace(inputs, own=own)

    def _computed(self, client: TimingClient, candidate: Candidate, inputs: PreparedInputs) -> checks.Values:
        """What ``candidate`` gives there."""
        name = f"{candidate.name} (all)"
        client.open(name, candidate.model, self._experiment.session(candidate.profile))
        client.bind(name, inputs.entries)
        outputs = self._folder.keep(client.outputs(name))
        client.close(name)
        return outputs

    def _computed_here(self, client: TimingClient, candidate: Candidate, inputs: PreparedInputs) -> checks.Values:
        """What ``candidate`` gives on this machine's processor."""
        profile = candidate.profile
        if profile.provider != "cpu":
            profile = replace(profile, provider="cpu", provider_options={})
        return self._computed(client, replace(candidate, profile=profile), inputs)

    def _settle(self, client: TimingClient) -> PreparedInputs:
        """Inputs on which the reference runs, and its outputs computed plainly."""
        experiment = self._experiment
        plain = experiment.session(replace(PLAIN, intra_threads=None))
        client.open(EXPECTED, experiment.reference.model, plain)
        inputs = prepare_inputs(
            client, EXPECTED, experiment.reference.inputs, experiment.given, experiment.seed, self._folder
        )
        expected = self._folder.keep(client.outputs(EXPECTED))
        client.close(EXPECTED)
        return replace(inputs, outputs=expected)

    def _open(self, client: TimingClient, turn: Turn) -> dict[str, Any]:
        candidate = self._experiment.candidate(turn.name)
        session = self._session(candidate)
        reply = client.open(turn.session, candidate.model, session)
        # Which nodes a compiler leaves to others is its figure.
        allowed = self._experiment.allow_fallback or self._experiment.kind == "compiled"
        counts = checks.check_placement(candidate.name, session["provider"], reply["placed"], allow_fallback=allowed)
        return reply | {"placed_by_provider": counts}

    def _check(self, client: TimingClient, turn: Turn) -> float:
        candidate, experiment = self._experiment.candidate(turn.name), self._experiment
        outputs = client.outputs(turn.session)
        if candidate.name not in self.inputs.own:
            expected = self.inputs.outputs
            return checks.check_outputs(candidate, experiment.reference, expected, outputs, experiment.rtol)
        try:
            own = self.inputs.own[candidate.name]
            where = f" on {experiment.target.name}"
            return checks.check_outputs(candidate, candidate, own, outputs, experiment.rtol, where)
        except FindingError as error:
            message = f"{error.message} There, {self._divergence(client, candidate)}."
            raise FindingError(error.code, message, error.hint) from error

    def _divergence(self, client: TimingClient, candidate: Candidate) -> str:
        """The first value of ``candidate`` that differs from this machine's."""

        def here(exposed: Candidate) -> checks.Values:
            with TimingClient(time_limit=self._experiment.effort.worker_timeout) as local:
                local.hello((), 0)
                return self._computed_here(local, exposed, self.inputs)

        def there(exposed: Candidate) -> checks.Values:
            return self._computed(client, exposed, self.inputs)

        self._progress(f"looking for the first value of {candidate.name} that differs")
        return first_divergence(candidate, there, here, self._experiment.rtol, self._folder.path)

    def all_details(self) -> tuple[Details, ...]:
        """Those of every candidate, where they are asked for and there is time for all of them."""
        try:
            return tuple(map(self.details, self._experiment.candidates)) if self._experiment.effort.details else ()
        except EnvironmentUnavailableError:
            if limits.remaining() != 0:
                raise
            return ()

    def details(self, candidate: Candidate) -> Details:
        """Memory and node times, from a process that holds this model alone."""
        self._progress(f"measuring memory and nodes of {candidate.name}")
        experiment = self._experiment
        alone = threading_of([candidate.profile], experiment.conditions.threads, experiment.conditions.use)
        session = experiment.session(candidate.profile, alone)
        with self._client() as client:
            before = self._hello(client, alone.pool if experiment.target.pools else 0)["peak_rss"]
            client.open(candidate.name, candidate.model, session)
            after = client.bind(candidate.name, self.inputs.entries)["peak_rss"]
            client.close(candidate.name)
            profiled = NO_PROFILE
            if experiment.target.profiles:
                profiled = client.profile(candidate.model, session, self.inputs.entries, PROFILED_RUNS)
        return Details(
            peak_rss=after,
            rss_before=before,
            arena_peak=profiled["arena_peak"],
            arena_size=profiled["arena_size"],
            nodes=tuple(map(tuple, profiled["nodes"])),
        )


def _nothing_done(seconds: float) -> EnvironmentUnavailableError:
    """The error that the time was up before anything was measured."""
    message = f"There are no figures: in the {seconds:.0f} s that were left, not one process was done measuring."
    hint = "A busy machine, or a large model, needs more: --time-limit, or fewer and smaller: --processes, --batch."
    return EnvironmentUnavailableError("timed-out", message, hint)


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


def _pilot(client: TimingClient, name: str, seconds: float) -> float:
    """Warm the model up for about ``seconds``; seconds that a run takes by then."""
    first = client.time([(name, PILOT_RUNS)])["ns"][0]
    one = max(min(first) / 1e9, 1e-7)
    runs = max(block_runs(one), min(round(seconds / one), 10_000)) if one < seconds else 1
    return max(float(np.median(client.time([(name, runs)])["ns"][0])) / 1e9, 1e-7)
