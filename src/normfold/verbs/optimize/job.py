"""The stages of `optimize`: what each does with the model that it is given, and whether its result is kept."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from normfold import limits
from normfold.backends.onnx import OnnxGraph, stored
from normfold.core.costs import DEFAULT, providers
from normfold.core.size import size
from normfold.errors import FindingError, NormfoldError
from normfold.limits import limited
from normfold.measure.documents import comparison_record, figure_record
from normfold.measure.figures import Cell
from normfold.measure.run import between
from normfold.measure.statistics import Comparison
from normfold.models.dataset import read_dataset
from normfold.models.shifts import shifted
from normfold.models.source import onnx_source
from normfold.passes.convert import Kind, Target
from normfold.passes.convert.advice import advised
from normfold.pipeline.prove import HOLDS
from normfold.pipeline.quantize.accuracy import Judge
from normfold.pipeline.stages import MODEL, Json, Stage, Workshop, digest
from normfold.proof.probes import input_specs
from normfold.records import Progress, size_record
from normfold.report.words import plural
from normfold.runtime import CHECKER, Evaluator, Runnable
from normfold.verbs.bench import BenchResult, bench
from normfold.verbs.convert import convert
from normfold.verbs.fold import fold
from normfold.verbs.fold_result import FoldResult
from normfold.verbs.optimize.request import Request, StageName
from normfold.verbs.quantize import quantize
from normfold.verbs.tune import tune
from normfold.verbs.verify import verify

Outcome = Literal["kept", "unchanged", "refused", "skipped"]
SOURCE: Final = "source"
EXACT: Final[Mapping[Kind, Target]] = {"layer": "rms", "dyt": "tanh"}
"""Conversions that can be exact and faster: what a norm is, and what it becomes."""
FATAL: Final = frozenset({"bad-data", "bad-input", "bad-metric", "internal", "output-not-writable", "usage"})
"""Errors about what the caller gave, or of normfold itself: no other stage could do better."""
QUANTIZING: Final = 0.5
MEASURING: Final = 0.6
MEASURING_LAST: Final = 0.9
"""The same where nothing is tuned afterwards."""
TUNING: Final = 0.5
"""Parts of the time that is left for these stages."""
TUNED_WITHIN: Final = 90.0
"""Seconds for tuning at most."""
SHORTEST: Final = 15.0
"""Seconds below which tuning is not begun."""
NO_DATA: Final = "there are no data to measure the accuracy on: --evaluate names some"


@dataclass(frozen=True, slots=True)
class Step:
    """A stage, and what came of it."""

    stage: StageName
    outcome: Outcome
    says: str
    made: Path | None = None
    """The model that later stages build on, where it made one that holds."""
    refused: Json | None = None
    """Code, message and hint."""
    record: Json = field(default_factory=dict)
    seconds: float = 0.0
    resumed: bool = False

    @property
    def model(self) -> Path | None:
        """The model that it made, where it may be handed over."""
        return self.made if self.outcome == "kept" else None

    def document(self) -> Json:
        """As the result's document holds it."""
        return {
            "stage": self.stage,
            "outcome": self.outcome,
            "says": self.says,
            "refused": self.refused,
            "seconds": round(self.seconds, 2),
            "resumed": self.resumed,
        }

    def refuse(self, error: Json) -> Step:
        """The same, refused; what was built on its result stands."""
        return replace(self, outcome="refused", says=error["message"], refused=error)


@dataclass(frozen=True, slots=True)
class Job:
    """One model to optimise, in ``file``, with what its stages depend on besides their options."""

    request: Request
    workshop: Workshop
    file: Path
    sha256: str
    data: Mapping[str, str | None]
    """Digests of the data."""
    machine: Json
    """What figures depend on."""
    progress: Progress

    def fold(self) -> Step:
        """The source, with its norms folded."""
        table = self.request.ep if self.request.ep in providers() else DEFAULT
        options: Json = {"only": self.request.only, "skip": self.request.skip, "ep": table}

        def work(folder: Path) -> Json:
            done = fold(self.file, output=folder / MODEL, **options, **self._running("fold"))
            return {"fold": done.document(), "changed": _changed(done)}

        return self._attempt("fold", {"source": self.sha256, **options}, work, _folded)

    def convert(self, given: Path) -> Step:
        """The folded model in ``given``, with norms of a cheaper kind where that is exact."""
        self.progress("convert: inspecting")
        graph = OnnxGraph(onnx_source(given).fresh(), CHECKER.infer)
        kinds = {norm.kind for norm in advised(graph)} & EXACT.keys()
        if not kinds:
            return Step("convert", "skipped", "no norm is left that could become a cheaper one exactly")

        def work(folder: Path) -> Json:
            return self._converted(given, folder, [kind for kind in EXACT if kind in kinds])

        depends = {"given": digest(given), "only": self.request.only, "skip": self.request.skip}
        return self._attempt("convert", depends, work, _conversions)

    def _converted(self, given: Path, folder: Path, kinds: list[Kind]) -> Json:
        current, decisions, running = given, [], self._running("convert")
        chosen: Json = {"only": self.request.only, "skip": self.request.skip}
        table = self.request.ep if self.request.ep in providers() else DEFAULT
        for kind in kinds:
            target = folder / f"{kind}.onnx"
            done = convert(current, to=EXACT[kind], source=kind, output=target, ep=self.request.ep, **chosen, **running)
            new = [one for one in done.decisions if one.outcome == "converted"]
            if new and all(one.label == "exact" for one in new):
                decisions += [one for one in done.document()["decisions"] if one["outcome"] == "converted"]
                current = target
        if current is given:
            return {"decisions": [], "changed": False}
        fold(current, output=folder / MODEL, ep=table, **chosen, **running)
        for kind in kinds:
            (folder / f"{kind}.onnx").unlink(missing_ok=True)
        # Each step was compared with the one before: the whole way is, too.
        proof = verify(self.file, folder / MODEL, **running).document()["verification"]
        return {"decisions": decisions, "changed": True, "verification": proof}

    def quantize(self, given: Path) -> Step:
        """The best model in floating point so far, quantised within the budget."""
        request = self.request
        if request.evaluate is None:
            return Step("quantize", "skipped", NO_DATA)
        options: Json = {
            "max_drop": request.max_drop,
            "width": request.width,
            "ep": request.ep,
            "threads": request.threads,
            "batch": request.batch,
        }

        def work(folder: Path) -> Json:
            done = quantize(
                given,
                output=folder / MODEL,
                calibrate=request.calibrate,
                evaluate=request.evaluate,
                metric=request.named,
                force=True,
                **options,
                **self._running("quantize"),
            )
            return {"quantize": done.document(), "changed": True}

        depends = {
            "given": digest(given),
            "data": dict(self.data),
            "metric": request.metric and request.metric.name,
            "machine": self.machine,
            **options,
        }
        return self._attempt("quantize", depends, work, _quantized, QUANTIZING)

    def evaluate(self, steps: Sequence[Step]) -> Step:
        """How accurate each model that was made is, beside the source on the same samples."""
        made = {step.stage: step.model for step in steps if step.model is not None}
        if self.request.evaluate is None:
            return Step("evaluate", "skipped", NO_DATA)
        if not made:
            return Step("evaluate", "skipped", "there is no result to measure the accuracy of")
        depends = {
            "source": self.sha256,
            "made": {name: digest(file) for name, file in made.items()},
            "data": dict(self.data),
            "metric": self.request.metric and self.request.metric.name,
            "shift": self.request.shift,
        }
        stage, seconds = self._do("evaluate", depends, lambda _: self._accuracies(made))
        says = f"the results of {', '.join(made)} beside the source"
        return Step("evaluate", "kept", says, None, None, stage.record, seconds, stage.resumed)

    def _accuracies(self, made: Mapping[StageName, Path]) -> Json:
        assert self.request.metric is not None  # noqa: S101 - for the type checker
        with ExitStack() as stack:
            evaluator = stack.enter_context(Evaluator())
            evaluator.start()
            source = onnx_source(self.file)
            evaluator.expect(source.nbytes)
            self.progress("evaluate: the source")
            clean = read_dataset(self.request.evaluate, input_specs(source.fresh()))
            file = stack.enter_context(source.runnable())
            results = {name: stack.enter_context(onnx_source(path).runnable()) for name, path in made.items()}
            judge = partial(Judge, evaluator, file, metric=self.request.metric, custom_ops=self.request.custom_ops)
            self.progress("evaluate: the source")
            found: Json = {"accuracy": _judged(judge(clean), results, self.progress), "shifted": {}}
            for shift in self.request.shift:
                self.progress(f"evaluate: the source, {shift}")
                found["shifted"][shift] = _judged(judge(shifted(clean, shift)), results, self.progress)
            return found

    def measure(self, steps: Sequence[Step]) -> Step:
        """The times of source and results, in turns, and the one to hand over."""
        made = {step.stage: step.model for step in steps if step.model is not None}
        request = self.request
        sure = any(step.record.get("quantize", {}).get("refused", True) is None for step in steps)

        def work(_: Path) -> Json:
            return self._timed(dict(made), sure=sure)

        depends = {
            "source": self.sha256,
            "made": {name: digest(file) for name, file in made.items()},
            "machine": self.machine,
            "conditions": [request.ep, request.target, request.use, request.threads, request.batch],
            "effort": repr(request.effort),
        }
        stage, seconds = self._do("measure", depends, work)
        says = f"{plural(len(made) + 1, 'model')} in turns"
        return Step("measure", "kept", says, None, None, stage.record, seconds, stage.resumed)

    def _timed(self, made: dict[StageName, Path], *, sure: bool) -> Json:
        """Figures of the source and of what was ``made``; what cannot be timed beside the others is left out.

        ``sure`` says that the quantised model was found to be faster before.
        """
        refused: dict[str, Json] = {}
        while True:
            done = self._bench(list(made.values()))
            if not done.refused:
                return _chosen(done, list(made), refused, sure=sure)
            error = done.refused[0]
            if not made or error.code in FATAL:
                raise error
            last, _ = made.popitem()
            refused[last] = error.record()

    def _bench(self, files: list[Path]) -> BenchResult:
        request, left = self.request, limits.remaining()
        share = MEASURING_LAST if "tune" in request.without else MEASURING
        return bench(
            self.file,
            *files,
            ep=request.ep,
            target=request.target,
            use=request.use,
            threads=request.threads,
            batch=request.batch,
            effort=request.effort,
            rtol=math.inf,
            time_limit=request.effort.time_limit if left is None else min(request.effort.time_limit, share * left),
            **self._running("measure"),
        )

    def tune(self, chosen: Path) -> Step:
        """Session settings with which the chosen model is faster than with ONNX Runtime's own."""
        left, request = limits.remaining(), self.request
        if left is not None and left * TUNING < SHORTEST:
            return Step("tune", "skipped", "there is no time left: --time-limit allows more")
        seconds = TUNED_WITHIN if left is None else min(TUNED_WITHIN, TUNING * left)
        options: Json = {
            "ep": request.ep,
            "target": request.target,
            "use": request.use,
            "threads": request.threads,
            "batch": request.batch,
        }

        def work(_: Path) -> Json:
            done = tune(chosen, **options, time_limit=seconds, **self._running("tune"))
            trial = done.confirmed
            better = done.better and trial is not None and trial.comparison is not None
            comparison = comparison_record(trial.comparison) if better and trial and trial.comparison else None
            profile = done.profile.to_json() if better else None
            return {
                "changed": better,
                "profile": profile,
                "comparison": comparison,
                "name": trial.name if trial else "",
            }

        depends = {"model": digest(chosen), "machine": self.machine, **options}
        return self._attempt("tune", depends, work, _tuned)

    def sizes(self, file: Path) -> Json:
        """How large the model in ``file`` is."""
        model = onnx_source(file).fresh()
        return {**size_record(size(OnnxGraph(model, CHECKER.infer), *stored(model))), "file": file.stat().st_size}

    def _running(self, stage: StageName) -> Json:
        """Keywords of every verb that runs a model, as ``stage`` calls it."""
        request = self.request
        return {
            "shapes": request.shapes,
            "inputs": request.inputs,
            "seed": request.seed,
            "custom_ops": request.custom_ops,
            "progress": lambda doing: self.progress(f"{stage}: {doing}"),
        }

    def _attempt(
        self,
        name: StageName,
        depends: Json,
        work: Callable[[Path], Json],
        says: Callable[[Json], str],
        share: float | None = None,
    ) -> Step:
        """A stage without which the job goes on, where it comes to nothing."""
        if name in self.request.without:
            return Step(name, "skipped", "not asked for")
        begun = time.monotonic()
        left = limits.remaining()
        try:
            with limited(None if share is None or not left else share * left):
                stage, seconds = self._do(name, depends, work)
        except NormfoldError as error:
            if error.code in FATAL or limits.remaining() == 0:
                raise
            return Step(name, "refused", "", seconds=time.monotonic() - begun).refuse(error.record())
        record = stage.record
        step = Step(name, "kept", says(record), None, None, record, seconds, stage.resumed)
        refused = refusal(record)
        if refused is not None:
            return step.refuse(refused)
        if not record.get("changed", True):
            return replace(step, outcome="unchanged")
        return replace(step, made=stage.model if stage.model.is_file() else None)

    def _do(self, name: StageName, depends: Json, work: Callable[[Path], Json]) -> tuple[Stage, float]:
        request, begun = self.request, time.monotonic()
        common = {
            "shapes": {key: list(shape) for key, shape in (request.shapes or {}).items()},
            "inputs": self.data.get("inputs"),
            "seed": request.seed,
            "custom_ops": list(request.custom_ops),
        }
        return self.workshop.do(name, {**common, **depends}, work), time.monotonic() - begun


def _judged(judge: Judge, results: Mapping[StageName, Runnable], progress: Progress) -> Json:
    """The accuracy of each result."""
    found: Json = {}
    for name, file in results.items():
        progress(f"evaluate: the result of {name}")
        found[name] = judge.accuracy(file).record()
    return found


def within(step: Step, evaluated: Step, most: float | None) -> Step:
    """``step`` as it is, or refused where its result loses more than ``most``."""
    accuracy = evaluated.record.get("accuracy", {}).get(step.stage)
    if accuracy is None or most is None or accuracy["drop"] <= most:
        return step
    lost = f"{accuracy['metric']} is worse by {accuracy['drop']:.3g} {accuracy['unit']}".rstrip()
    return step.refuse(FindingError("budget-missed", f"{lost}; a drop of {most:g} is allowed.").record())


def refusal(record: Json) -> Json | None:
    """Why what a stage made is not to be kept, as its verb found."""
    proof = record.get("verification")
    if proof is not None and proof["status"] not in HOLDS:
        message = f"The result differs from the source: {proof['because'] or proof['status']}."
        return FindingError("result-differs", message).record()
    quantized = record.get("quantize", {})
    refused: Json | None = quantized.get("refused")
    return None if refused is not None and _undecided(quantized) else refused


def _undecided(quantized: Json) -> bool:
    """Whether a quantised model may be faster, and was refused only since its own measurement could not tell."""
    latency = quantized["latency"]
    not_faster = (quantized["refused"] or {}).get("code") == "not-faster"
    return bool(not_faster and latency and latency["verdict"] == "inconclusive" and latency["ratio"]["value"] < 1.0)


def _changed(done: FoldResult[Any]) -> bool:
    """Whether folding changed anything."""
    cleaned = done.cleaning is not None and done.cleaning.before != done.cleaning.after
    return cleaned or any(one.outcome != "kept" for one in done.decisions)


def _folded(record: Json) -> str:
    tally = {key: count for key, count in record["fold"]["counts"].items() if count}
    if not record["changed"]:
        return "nothing to fold"
    found = [f"{count} {name.replace('_', '-')}" for name, count in tally.items() if name not in ("norms", "scales")]
    return f"{plural(tally.get('norms', 0), 'norm')}: {', '.join(found)}" if found else "cleaned"


def _conversions(record: Json) -> str:
    if not record["changed"]:
        return "no norm can become a cheaper one exactly"
    return f"{plural(len(record['decisions']), 'norm')} of a cheaper kind, exactly"


def _quantized(record: Json) -> str:
    done = record["quantize"]
    narrow = sum(not node["because"] for node in done["nodes"])
    return f"{done['width']}, {done['format']}: {narrow} of {plural(len(done['nodes']), 'operation')}"


def _tuned(record: Json) -> str:
    return record["name"] if record["changed"] else "no session setting beats the default ones"


def _chosen(done: BenchResult, made: list[StageName], refused: dict[str, Json], *, sure: bool) -> Json:
    """Figures, and which model to hand over: never one that is slower than the source.

    What only folds is kept unless it is slower; what converts or quantises has to be faster than the best so far.
    A quantised model that was found to be that before (``sure``) stays where this measurement cannot tell.
    """
    cell = done.cells[0]
    names = {stage: model.name for stage, model in zip(made, done.models[1:], strict=True)}
    reference = done.models[0].name
    best, label = reference, SOURCE
    steps: dict[str, Json] = {}
    for stage, name in names.items():
        against = between(cell, done.effort, best, name)
        steps[stage] = {"against": label, **comparison_record(against)}
        if cell.comparisons[name].verdict == "slower" or not gains(stage, against, sure=sure):
            refused[stage] = _too_slow(cell.comparisons[name].ratio.value, label, against.ratio.value)
        else:
            best, label = name, stage
    return {
        "chosen": label,
        "refused": refused,
        "steps": steps,
        "figures": {SOURCE: figure_record(cell.figure(reference), cell)}
        | {stage: figure_record(cell.figure(name), cell) for stage, name in names.items()},
        "comparisons": {stage: _compared(cell, name) for stage, name in names.items()},
        "warnings": list(cell.warnings),
    }


def gains(stage: StageName, against: Comparison, *, sure: bool) -> bool:
    """Whether a stage's result is worth having, given its time over that of the best before it."""
    seems = against.verdict == "inconclusive" and against.ratio.value < 1.0
    return stage == "fold" or against.verdict == "faster" or (stage == "quantize" and sure and seems)


def _compared(cell: Cell, name: str) -> Json:
    """Time over that of the source, and the quartiles of the rounds in which the two took turns."""
    ratios = np.concatenate([sample.used(name) / sample.used(sample.reference) for sample in cell.samples])
    quartiles = [float(one) for one in np.quantile(ratios, (0.25, 0.75))]
    return comparison_record(cell.comparisons[name]) | {"rounds": len(ratios), "quartiles": quartiles}


def _too_slow(ratio: float, label: str, of_best: float) -> Json:
    says = f"It takes {ratio:.3g}x the time of the source"
    if label != SOURCE:
        says += f", and {of_best:.3g}x that of the result of {label}"
    return FindingError("not-faster", f"{says}: no gain beyond chance.").record()
