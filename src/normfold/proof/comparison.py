"""Numeric proof: a result is compared with its source on inputs made for it.

The source runs first, in the queue of a runner, while the result is still being made
(`Comparison.begin`); the result runs after it, and the two are never in memory together. Only where
they differ is the source run again: on inputs moved by one unit of rounding and in another order of
computation, to learn how much of the difference is the source's own noise, and with its inner values as
outputs, to name the site of the first divergence.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, Final, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from normfold.core.preprocess import Stage
from normfold.errors import EnvironmentUnavailableError, UsageError
from normfold.models.data import UserInputs
from normfold.proof.deviation import Deviation, compare, tolerance
from normfold.proof.findings import (
    CHAOTIC,
    EXACT,
    NOISE_CAP,
    NOISE_FACTOR,
    ROUNDING,
    Finding,
    SourceAnswers,
    describe,
    is_no_less_exact,
    is_noise,
    said,
    with_largest,
)
from normfold.proof.probes import (
    KINDS,
    Feed,
    InputSpec,
    Layout,
    check_given,
    finfo,
    is_float,
    kinds_for,
    layouts,
    make_feed,
    nudged,
    raw_spec,
    too_large,
    unmakeable,
)
from normfold.proof.runner import Queue, Runner
from normfold.proof.sites import with_sites
from normfold.records import Pair, Status, Verification
from normfold.runtime import Failed, Loaded, Ran

Array = NDArray[Any]
M = TypeVar("M")
Values = Mapping[str, Array]

NOISE_DRAWS: Final = 2
NAMED: Final = 4
"""Sets of shapes named in a message."""
ATTEMPT_SECONDS: Final = 5.0
"""Time after which no further inputs are guessed."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What results are compared on: which inputs to feed, and the tolerance."""

    inputs: Sequence[InputSpec]
    given: UserInputs = field(default_factory=UserInputs)
    rtol: float | None = None
    """Tolerance for every floating-point output; None: by the output's type."""
    seed: int = 0
    precision: str | None = None
    """Coarsest floating-point type that the model computes in, where its outputs do not show it."""
    random: bool = False
    """Whether the model has random operators, so that it may differ from itself."""
    custom_ops: Sequence[str] = ()
    prepare: Callable[[Values], Values] = dict
    """What the source is fed where a result is fed these arrays; the same, unless the result does more."""

    def of_raw(self, stage: Stage | None) -> Setup:
        """The same where results take the raw image of ``stage``, and the source what it comes to."""
        if stage is None:
            return self
        inputs = [raw_spec(spec, stage) if spec.name == stage.name else spec for spec in self.inputs]
        return replace(self, inputs=inputs, prepare=stage.prepared)


class Comparison(Generic[M]):
    """Compares results with one source. `begin` once, then `finish` for every result.

    Raises `UsageError` ``bad-input`` where what the user gave does not fit the model's inputs.
    """

    def __init__(self, queue: Queue[M], setup: Setup) -> None:
        check_given(setup.inputs, setup.given)
        self._queue = queue
        self._setup = setup
        self._source: M | None = None
        self._answers: Future[SourceAnswers | Failed] | None = None
        self._ahead: tuple[frozenset[str], Future[Values | Failed]] | None = None

    @property
    def source_fails(self) -> bool:
        """Whether the source cannot be run, known once a comparison is finished."""
        return self._answers is not None and self._answers.done() and isinstance(self._answers.result(), Failed)

    @property
    def source_is_too_much(self) -> bool:
        """Whether the source ran out of time or memory, so that no result of it fares better."""
        answers = self._answers.result() if self._answers is not None and self._answers.done() else None
        return isinstance(answers, Failed) and answers.kind in ("memory", "time")

    def begin(self, source: M) -> None:
        """Start running ``source``; returns at once. The file must stay as it is until `finish` is done."""
        self._source = source
        self._answers = self._queue.submit(lambda runner: self._explore(runner, source))

    def prepare(self, pairs: Sequence[Pair]) -> None:
        """Start running ``source`` for its values at ``pairs``, which `finish` needs ``per_site``; returns at once."""
        source, answers = self._source, self._answers
        if source is None or answers is None:
            raise ValueError("prepare before begin")
        names = frozenset(pair.source for pair in self._inner(pairs))
        if self._ahead is not None and names <= self._ahead[0]:
            return

        def ahead(runner: Runner[M]) -> Values | Failed:
            # The task that finds these came before this one.
            found = answers.result()
            if isinstance(found, Failed):
                return found
            return self._inner_values(runner, source, names, found, self._for_source(found.feeds[0]))

        self._ahead = names, self._queue.submit(ahead)

    def finish(self, result: M, pairs: Sequence[Pair] = (), *, per_site: bool = False) -> Verification:
        """Compare ``result`` with the source; ``pairs`` in topological order.

        Inner values are looked at where the outputs differ, and with ``per_site`` in any case.
        Raises `EnvironmentUnavailableError` ``custom-ops`` where their library cannot be loaded, and
        `UsageError` ``bad-input`` where the source does not run on what the user gave.
        """
        if self._source is None or self._answers is None:
            raise ValueError("finish before begin")
        source, answers = self._source, self._answers.result()
        if isinstance(answers, Failed):
            return self._unavailable(answers)
        task = self._queue.submit(lambda runner: self._compare(runner, source, answers, result))
        verification, worst = task.result()
        if not pairs or not (per_site or verification.status == "different"):
            return verification
        located = self._queue.submit(
            lambda runner: self._locate(runner, source, result, pairs, answers, worst)
        ).result()
        return with_sites(verification, located)

    def _unavailable(self, failure: Failed) -> Verification:
        if failure.kind == "custom-ops":
            raise EnvironmentUnavailableError("custom-ops", f"The custom operators cannot be loaded: {failure.message}")
        if failure.kind == "run" and self._setup.given.names:
            raise UsageError("bad-input", f"The model does not run on the inputs given: {failure.message}")
        return Verification("unavailable", because=f"source: {failure}")

    def _load(
        self,
        runner: Runner[M],
        model: M,
        evaluator: str,
        extra: Sequence[str] = (),
        **computing: bool,
    ) -> Loaded | Failed:
        libraries = self._setup.custom_ops
        return runner.load(model, extra_outputs=extra, custom_ops=libraries, evaluator=evaluator, **computing)

    def _explore(self, runner: Runner[M], source: M) -> SourceAnswers | Failed:
        loaded = self._load(runner, source, "")
        if isinstance(loaded, Failed):
            return loaded
        missing = unmakeable(self._setup.inputs, self._setup.given)
        if missing:
            return Failed("unsupported", missing)
        first = self._first_run(runner)
        if isinstance(first, Failed):
            return first
        layout, feed, ran = first
        again = runner.run(self._for_source(feed).arrays) if self._setup.random else None
        differs = isinstance(again, Ran) and not _same(ran.outputs, again.outputs)
        feeds, outputs, dropped = [_marked(feed, ran.outputs)], [ran.outputs], []
        for kind in kinds_for(self._setup.inputs, ran.seconds)[1:]:
            feed = make_feed(self._setup.inputs, self._setup.given, layout, kind, self._setup.seed)
            more = runner.run(self._for_source(feed).arrays)
            if isinstance(more, Ran):
                feeds.append(_marked(feed, more.outputs))
                outputs.append(more.outputs)
            elif more.kind == "run":
                dropped.append(kind.name)
            else:
                return more
        notes = _notes(loaded.evaluator, dropped, differs_from_itself=differs)
        return SourceAnswers(loaded.evaluator, tuple(feeds), tuple(outputs), notes, differs)

    def _for_source(self, feed: Feed) -> Feed:
        return replace(feed, arrays=dict(self._setup.prepare(feed.arrays)))

    def _first_run(self, runner: Runner[M]) -> tuple[Layout, Feed, Ran] | Failed:
        """The first layout on which the model runs; else the first failure, with what was tried and the way out."""
        failure, tried = None, []
        until = time.monotonic() + ATTEMPT_SECONDS
        for layout in layouts(self._setup.inputs, self._setup.given):
            large = too_large(self._setup.inputs, layout)
            if large:
                failure = failure or Failed("run", f"{large}, which is too large to be made")
                continue
            feed = make_feed(self._setup.inputs, self._setup.given, layout, KINDS[0], self._setup.seed)
            ran = runner.run(self._for_source(feed).arrays)
            if isinstance(ran, Ran):
                return layout, feed, ran
            failure = failure or ran
            tried.append(layout)
            if ran.kind != "run" or time.monotonic() > until:
                break
        failure = failure or Failed("run", "no inputs to try")
        return replace(failure, message=failure.message + _way_out(tried))

    def _compare(self, runner: Runner[M], source: M, answers: SourceAnswers, result: M) -> tuple[Verification, int]:
        """The verdict, and the probe at which the two differ most."""
        base = Verification(
            "equivalent",
            rtol=self._largest_tolerance(answers),
            inputs=tuple(probe for feed in answers.feeds for probe in feed.probes),
        )
        loaded = self._load(runner, result, answers.evaluator)
        if isinstance(loaded, Failed):
            return _result_failed(base, loaded), 0
        names = tuple(answers.outputs[0])
        if loaded.outputs != names:
            because = f"the outputs are {_listed(loaded.outputs)} instead of {_listed(names)}"
            return replace(base, status="different", because=because), 0
        findings: list[Finding] = []
        for probe, feed in enumerate(answers.feeds):
            ran = runner.run(feed.arrays)
            if isinstance(ran, Failed):
                return _result_failed(base, ran), probe
            findings += self._findings(probe, answers.outputs[probe], ran.outputs)
        return self._judge(runner, source, result, answers, base, findings)

    def _findings(self, probe: int, source: Values, result: Values) -> list[Finding]:
        return [
            Finding(probe, name, compare(array, result[name], rtol), rtol, not is_float(array.dtype))
            for name, array in source.items()
            for rtol in [self._tolerance(array)]
        ]

    def _tolerance(self, array: Array) -> float:
        default = tolerance(array.dtype, self._setup.precision)
        return default if self._setup.rtol is None or not default else self._setup.rtol

    def _largest_tolerance(self, answers: SourceAnswers) -> float | None:
        return max((self._tolerance(array) for array in answers.outputs[0].values()), default=None)

    def _judge(
        self,
        runner: Runner[M],
        source: M,
        result: M,
        answers: SourceAnswers,
        base: Verification,
        findings: Sequence[Finding],
    ) -> tuple[Verification, int]:
        base = with_largest(base, findings)
        apart = [finding for finding in findings if not finding.agrees]
        if not apart:
            return said(base, answers), 0
        noise = self._noise(runner, source, answers, {finding.probe for finding in apart})
        cap = np.inf if answers.differs_from_itself else max(NOISE_CAP, NOISE_FACTOR * (base.rtol or 0.0))
        unexplained = [finding for finding in apart if not is_noise(finding, noise, cap)]
        told = {finding.output for finding in findings if finding not in unexplained}
        chaotic = [finding for finding in unexplained if finding.output in told and self._is_chaotic(finding, noise)]
        unexplained = [finding for finding in unexplained if finding not in chaotic]
        excused = self._no_less_exact(runner, source, result, answers, unexplained)
        unexplained = [finding for finding in unexplained if finding not in excused]
        if unexplained:
            worst = max(unexplained, key=lambda finding: finding.deviation.excess)
            described = describe(worst, findings, answers)
            return said(replace(base, status="different"), answers, described), worst.probe
        if chaotic:
            calm = [finding for finding in findings if finding not in chaotic]
            because = f"{describe(chaotic[0], findings, answers)}, {CHAOTIC}"
            return said(with_largest(base, calm), answers, because), calm[0].probe
        worst = max(excused or apart, key=lambda finding: finding.deviation.excess)
        because = f"{describe(worst, findings, answers)}, {EXACT if excused else ROUNDING}"
        return said(base, answers, because), worst.probe

    def _is_chaotic(self, finding: Finding, noise: Mapping[tuple[int, str], float]) -> bool:
        """Whether the source is so far from itself on this probe that nothing can be compared there."""
        moved = noise.get((finding.probe, finding.output), 0.0) * finding.tolerance
        return not finding.exact and np.isfinite(finding.deviation.excess) and moved > NOISE_CAP

    def _noise(
        self, runner: Runner[M], source: M, answers: SourceAnswers, probes: set[int]
    ) -> dict[tuple[int, str], float]:
        """Excess, by probe and output, of the source over itself where only rounding differs.

        Its inputs move by one unit of rounding; and ONNX Runtime computes the same in another order.
        """
        noise: dict[tuple[int, str], float] = {}

        def note(probe: int, answer: Ran | Failed) -> None:
            found = [] if isinstance(answer, Failed) else self._findings(probe, answers.outputs[probe], answer.outputs)
            for finding in found:
                key = (probe, finding.output)
                noise[key] = max(noise.get(key, 0.0), finding.deviation.excess)

        fed = {probe: self._for_source(answers.feeds[probe]) for probe in sorted(probes)}
        if isinstance(self._load(runner, source, answers.evaluator), Loaded):
            for probe, feed in fed.items():
                for draw in range(NOISE_DRAWS):
                    note(probe, runner.run(nudged(feed, self._rounding(feed), self._setup.seed + draw)))
        if isinstance(self._load(runner, source, answers.evaluator, optimised=True), Loaded):
            for probe, feed in fed.items():
                note(probe, runner.run(feed.arrays))
        return noise

    def _no_less_exact(
        self, runner: Runner[M], source: M, result: M, answers: SourceAnswers, apart: Sequence[Finding]
    ) -> list[Finding]:
        """Those of ``apart`` where ``result`` is as near as ``source`` is to what that computes in float64, or nearer.

        Rounding can be the source's alone: some runtimes take the variance of what is nearly constant as a difference
        of large numbers, which other operators do not. None where nothing computes in float64.
        """
        if not apart or answers.differs_from_itself:
            return []
        fed = {finding.probe: answers.feeds[finding.probe] for finding in apart}
        sources = {probe: self._for_source(feed) for probe, feed in fed.items()}
        exact = self._ran(runner, self._load(runner, source, answers.evaluator, precise=True), sources)
        mine = self._ran(runner, self._load(runner, result, answers.evaluator), fed) if exact else {}
        return [
            finding
            for finding in apart
            if finding.probe in exact
            and finding.probe in mine
            and is_no_less_exact(
                finding, *(values[finding.probe][finding.output] for values in (exact, answers.outputs, mine))
            )
        ]

    def _ran(self, runner: Runner[M], loaded: Loaded | Failed, feeds: Mapping[int, Feed]) -> dict[int, Values]:
        """What the model that was ``loaded`` gives for the probes on which it runs."""
        answers = {} if isinstance(loaded, Failed) else {probe: runner.run(f.arrays) for probe, f in feeds.items()}
        return {probe: answer.outputs for probe, answer in answers.items() if isinstance(answer, Ran)}

    def _rounding(self, feed: Feed) -> float:
        """Unit of rounding of the coarsest type among the inputs and the model's precision."""
        names = {array.dtype.name for array in feed.arrays.values() if is_float(array.dtype)}
        names |= {self._setup.precision} if self._setup.precision else set()
        return max((float(finfo(name).eps) for name in names), default=0.0)

    def _locate(
        self,
        runner: Runner[M],
        source: M,
        result: M,
        pairs: Sequence[Pair],
        answers: SourceAnswers,
        probe: int,
    ) -> list[tuple[Pair, Deviation]] | Failed:
        """Deviation at every pair on one probe; both models run with the pairs' values as extra outputs."""
        pairs = self._inner(pairs)
        before = self._source_values(runner, source, [pair.source for pair in pairs], answers, probe)
        if isinstance(before, Failed):
            return before
        after = self._inner_values(runner, result, [pair.result for pair in pairs], answers, answers.feeds[probe])
        if isinstance(after, Failed):
            return after
        return [
            (pair, compare(before[pair.source], after[pair.result], self._tolerance(before[pair.source])))
            for pair in pairs
            if pair.source in before and pair.result in after
        ]

    def _inner(self, pairs: Sequence[Pair]) -> list[Pair]:
        fed = {spec.name for spec in self._setup.inputs}
        return [pair for pair in pairs if pair.source not in fed and pair.result not in fed]

    def _source_values(
        self, runner: Runner[M], source: M, names: Collection[str], answers: SourceAnswers, probe: int
    ) -> Values | Failed:
        """Values of the source by name: those that were prepared, or of another run."""
        if probe == 0 and self._ahead is not None and self._ahead[0].issuperset(names):
            values = self._ahead[1].result()
            if not isinstance(values, Failed):
                return values
        return self._inner_values(runner, source, names, answers, self._for_source(answers.feeds[probe]))

    def _inner_values(
        self, runner: Runner[M], model: M, names: Collection[str], answers: SourceAnswers, feed: Feed
    ) -> Values | Failed:
        distinct = tuple(dict.fromkeys(names))
        extra = [name for name in distinct if name not in answers.outputs[0]]
        loaded = self._load(runner, model, answers.evaluator, extra)
        if isinstance(loaded, Failed):
            return loaded
        ran = runner.run(feed.arrays, distinct)
        return ran if isinstance(ran, Failed) else ran.outputs


def verify(queue: Queue[M], source: M, result: M, setup: Setup, pairs: Sequence[Pair] = ()) -> Verification:
    """Compare ``result`` with ``source``, one after the other; errors as in `Comparison`."""
    comparison = Comparison(queue, setup)
    comparison.begin(source)
    return comparison.finish(result, pairs)


def _way_out(tried: Sequence[Layout]) -> str:
    """What was tried, and how the user can say better."""
    guessed = tried[0].guessed if tried else ()
    if not guessed:
        return ""
    names = " ".join(f"--shape {name}={'x'.join(map(str, tried[0].shapes[name]))}" for name in guessed)
    shapes = dict.fromkeys(" ".join("x".join(map(str, layout.shapes[name])) for name in guessed) for layout in tried)
    listed = ", ".join(list(shapes)[:NAMED]) + (", ..." if len(shapes) > NAMED else "")
    return (
        f"; sizes were guessed for {_listed(guessed)} ({len(shapes)} tried: {listed}): "
        f"state them, as in {names}, or give arrays with --inputs"
    )


def _notes(evaluator: str, dropped: Sequence[str], *, differs_from_itself: bool) -> tuple[str, ...]:
    notes = []
    if not evaluator.startswith(("onnxruntime", "torch")):
        notes.append(f"evaluated by {evaluator}, since ONNX Runtime lacks a kernel")
    if dropped:
        notes.append(f"the source does not run on these probes, left out: {', '.join(dropped)}")
    if differs_from_itself:
        notes.append("the source has random operators and differs from itself; compared within that difference")
    return tuple(notes)


def _same(first: Values, second: Values) -> bool:
    return all(compare(array, second[name], 0.0).excess == 0.0 for name, array in first.items())


def _marked(feed: Feed, outputs: Values) -> Feed:
    """The feed with a remark where the source's answer to it is not finite anywhere."""
    floats = [array for array in outputs.values() if is_float(array.dtype) and array.size]
    if not floats or any(np.isfinite(array.astype(np.float64)).any() for array in floats):
        return feed
    remark = "; the source's outputs are not finite on it"
    return replace(feed, probes=tuple(replace(probe, made=probe.made + remark) for probe in feed.probes))


def _result_failed(base: Verification, failure: Failed) -> Verification:
    """A result that its source's evaluator rejects is different; a worker that gave up proves nothing."""
    status: Status = "different" if failure.kind in ("invalid", "unsupported", "run") else "unavailable"
    # Out of time or memory says nothing about the result; a crash, where its source ran, does.
    raised = failure.message if status == "different" or failure.kind == "crash" else ""
    return replace(base, status=status, because=f"result: {failure}", failure=raised)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names)) or "none"
