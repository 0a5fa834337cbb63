"""The job of quantising one model: fold, let the recipe make candidates, prove and measure each, take the best.

What is handed over computes what its simulation in floating point computes, is faster than its source by bench's
verdict, and loses no more accuracy than was allowed. Otherwise nothing is, and the figures say why.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import onnx_ir

from normfold._version import __version__
from normfold.errors import FindingError, UsageError
from normfold.measure import metrics
from normfold.measure.candidate import Conditions
from normfold.measure.metrics import Metric
from normfold.models import onnxfile
from normfold.models.carried import carried_records
from normfold.models.data import UserInputs
from normfold.models.dataset import Dataset, read_dataset
from normfold.models.source import OnnxSource, runnable
from normfold.passes.fold.selection import Selection
from normfold.passes.quantize import outputs
from normfold.passes.quantize.figures import Accuracy, Choice, Format, Latency, NodeFigures, Point, Width
from normfold.passes.quantize.recipe import Quantized, Recipe, Work
from normfold.pipeline.fold_onnx import Request, Target, fold_proven
from normfold.pipeline.quantize.accuracy import Judge
from normfold.pipeline.quantize.proven import check_form, proven
from normfold.pipeline.quantize.search import Memory, Search
from normfold.pipeline.quantize.speed import GELU, Setting, by_operation, times
from normfold.pipeline.stages import Workshop
from normfold.proof.comparison import Setup
from normfold.proof.probes import input_specs
from normfold.records import Decision, Progress, Verification, silent
from normfold.runtime import CHECKER, Evaluator, Runnable

FORMATS: Final[tuple[Format, ...]] = ("qdq", "contrib")
PROVIDER: Final = "cpu"
"""The execution provider that has operators of its own for integers here."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be done with a model, and what counts as worth it."""

    width: Width = "int8"
    format: Format = "auto"
    ep: str = PROVIDER
    calibration: object = None
    """What `read_dataset` takes; None: without data."""
    evaluation: object = None
    metric: Metric | None = None
    max_drop: float | None = None
    """In the metric's own unit."""
    max_latency: float | None = None
    """Largest time of a run, over the source's or, where ``absolute``, in seconds."""
    absolute: bool = False
    measured: bool = True
    """Whether the provider is here to be measured on."""
    cache: Path | None = None
    """Where measurements of a search are kept, so that it can go on."""
    force: bool = False
    """Write also what misses its budget or is not faster."""
    conditions: Conditions = field(default_factory=Conditions)
    inputs: UserInputs = field(default_factory=UserInputs)
    custom_ops: tuple[str, ...] = ()
    seed: int = 0
    target: Target = field(default_factory=Target)
    progress: Progress = silent

    @property
    def formats(self) -> tuple[Format, ...]:
        """Those to try, the last being the one to prefer where two are as fast."""
        if self.format != "auto":
            return (self.format,)
        return FORMATS if self.ep == PROVIDER and self.measured and self.width != "a16w8" else ("qdq",)


@dataclass(frozen=True, slots=True)
class Done:
    """The model chosen, and what is known of it and of the others."""

    model: onnx_ir.Model | None
    chosen: Point
    nodes: tuple[NodeFigures, ...]
    decisions: tuple[Decision, ...]
    verification: Verification
    front: tuple[Point, ...]
    nbytes_before: int
    refused: FindingError | None = None
    warnings: tuple[str, ...] = ()
    choices: tuple[Choice, ...] = ()

    @property
    def accuracy(self) -> Accuracy | None:
        """Of the model chosen."""
        return self.chosen.accuracy

    @property
    def latency(self) -> Latency | None:
        """Of the model chosen."""
        return self.chosen.latency


def quantize(evaluator: Evaluator, source: OnnxSource, recipe: Recipe, asked: Asked) -> Done:
    """Quantise ``source`` with ``recipe`` and, where it paid, write the result to the target.

    Raises:
        NormfoldError: the model cannot be folded, run or written; data do not fit it.
    """
    setup = Setup((), asked.inputs, seed=asked.seed, custom_ops=asked.custom_ops)
    folded = fold_proven(evaluator, source, Request(Selection().fold, progress=asked.progress), setup)
    takes = input_specs(folded.model)
    calibration = None if asked.calibration is None else read_dataset(asked.calibration, takes)
    evaluation = None if asked.evaluation is None else read_dataset(asked.evaluation, takes)
    work = Work(
        folded.model.clone,
        asked.width,
        asked.formats,
        evaluator,
        calibration,
        carried_records(folded.model),
        asked.ep,
        asked.seed,
        asked.custom_ops,
        asked.progress,
        None if evaluation is None else evaluation.part(0, outputs.HELD_OUT),
    )
    asked.progress("quantising")
    made = list(recipe(work))
    if not made:
        raise UsageError("nothing-to-quantize", "No operation of the model can be quantised.", _way_out(asked))
    check_form(evaluator, made, folded.model, setup, calibration)
    with ExitStack() as files:
        judge = _judge(files, evaluator, source, evaluation, asked)
        job = _Job(files, evaluator, source, folded.model, setup, calibration, judge, asked)
        tried = job.tried(made)
        mixed = job.repaired(tried, evaluation)
        before, measured = job.measured([*tried, *mixed.tried])
        best = _best(measured, asked)
        chosen = job.with_unoptimised(best)
        refused = _refusal(chosen, asked)
        model = _stamped(chosen.quantized.model, source, folded.decisions)
        if refused is None or asked.force:
            _write(model, source, asked.target)
        front = tuple(replace(one.point, chosen=one is best) for one in measured)
        return Done(
            model if refused is None or asked.force else None,
            replace(chosen.point, chosen=True),
            _figures(chosen, before),
            folded.decisions,
            chosen.verification,
            (*front, *mixed.points),
            source.nbytes,
            refused,
            (*mixed.warnings, *_warnings(chosen, asked)),
            chosen.quantized.choices,
        )


@dataclass(frozen=True, slots=True)
class _Mixed:
    """What a search for the budget came to."""

    tried: Sequence[_Tried] = ()
    points: Sequence[Point] = ()
    """Those on the way."""
    warnings: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class _Job:
    """What candidates are proven, scored and timed with."""

    files: ExitStack
    evaluator: Evaluator
    source: OnnxSource
    folded: onnx_ir.Model
    setup: Setup
    calibration: Dataset | None
    judge: Judge | None
    asked: Asked

    def tried(self, made: Sequence[Quantized]) -> list[_Tried]:
        """Written, proven and scored; those that are not proven only where none is."""
        found = [_Tried.written(self.files, one) for one in made]
        self.asked.progress("comparing with the simulation")
        found = [replace(one, verification=self._proof(one)) for one in found]
        holding = [one for one in found if one.verification.status == "within-budget"]
        return [self._scored(one) for one in holding or found]

    def repaired(self, tried: Sequence[_Tried], evaluation: Dataset | None) -> _Mixed:
        """Where none of those ``tried`` keeps within the budget of accuracy: models with some operations put back."""
        first = tried[-1]
        mixture, judge, asked = first.quantized.mixture, self.judge, self.asked
        if mixture is None or judge is None or any(_drop_refusal(one, asked) is None for one in tried):
            return _Mixed()

        def score(floating: frozenset[str]) -> Accuracy:
            with runnable(mixture.made(floating)[-1].model) as file:
                return judge.accuracy(file)

        with _memory(self.source, self.calibration, evaluation, asked) as memory:
            search = Search(
                mixture,
                score,
                lambda accuracy: accuracy.drop <= (asked.max_drop or 0.0),
                self._costs(mixture.names, first),
                memory,
                asked.progress,
            )
            found = search.run()
        warnings = () if search.finished else ("The time was up before the search for the budget was done.",)
        if found is None:
            return _Mixed(warnings=warnings)
        points = [
            replace(first.point, name=_mixed_name(step.floating), accuracy=step.accuracy)
            for step in search.steps
            if step is not found
        ]
        made = [
            replace(one, name=f"{one.format}, {_mixed_name(found.floating)}") for one in mixture.made(found.floating)
        ]
        return _Mixed(self.tried(made), points, warnings)

    def measured(self, tried: Sequence[_Tried]) -> tuple[Mapping[str, float], list[_Tried]]:
        """The milliseconds of the source's nodes, and all of them with their times."""
        asked = self.asked
        if not asked.measured:
            return {}, list(tried)
        asked.progress("timing")
        with self.source.runnable() as reference:
            before, found = times(reference, [one.file for one in tried], self._setting())
        pairs = zip(tried, found, strict=True)
        return before, [
            replace(one, point=replace(one.point, latency=timed.latency), nodes=timed.nodes) for one, timed in pairs
        ]

    def with_unoptimised(self, one: _Tried) -> _Tried:
        """With the accuracy where ONNX Runtime rearranges nothing, too."""
        accuracy = one.point.accuracy
        if self.judge is None or accuracy is None:
            return one
        return replace(one, point=replace(one.point, accuracy=self.judge.unoptimised(accuracy, one.runs)))

    def _setting(self) -> Setting:
        asked = self.asked
        return Setting(asked.conditions, asked.inputs, asked.seed, asked.progress, asked.ep)

    def _proof(self, one: _Tried) -> Verification:
        return proven(self.evaluator, one.quantized, one.runs, self.folded, self.setup, self.calibration)

    def _scored(self, one: _Tried) -> _Tried:
        if self.judge is None:
            return one
        return replace(one, point=replace(one.point, accuracy=self.judge.accuracy(one.runs)))

    def _costs(self, names: Sequence[str], one: _Tried) -> dict[str, float]:
        """Milliseconds that each operation takes longer in floating point than in ``one``."""
        asked = self.asked
        if not asked.measured:
            return {}
        asked.progress("timing operations")
        with runnable(self.folded.clone()) as reference:
            before, (after,) = times(reference, [one.file], self._setting(), roughly=True)
        activations = [node.name for node in one.quantized.nodes if node.operator == GELU]
        floating, codes = (by_operation(names, nodes, activations) for nodes in (before, after.nodes))
        return {name: floating[name] - codes[name] for name in names}


@contextmanager
def _memory(
    source: OnnxSource, calibration: Dataset | None, evaluation: Dataset | None, asked: Asked
) -> Iterator[Memory]:
    """What an earlier search measured, in the folder named, and what this one does."""
    if asked.cache is None or source.digest is None:
        yield Memory()
        return
    data = [None if one is None else one.digest() for one in (calibration, evaluation)]
    metric = (asked.metric or metrics.metric("top1")).name
    context = {"source": source.digest, "data": data, "metric": metric, "formats": asked.formats, "seed": asked.seed}
    with Workshop.opened(asked.cache) as workshop:
        yield Memory(context, workshop)


def _mixed_name(floating: frozenset[str]) -> str:
    return f"{len(floating)} in floating point"


def _figures(one: _Tried, before: Mapping[str, float]) -> tuple[NodeFigures, ...]:
    """Its nodes with their signal to noise, and the milliseconds that they took in the source and take now."""
    noise = {} if one.quantized.noise is None else one.quantized.noise()
    figures = [replace(node, sqnr=noise.get(node.name)) for node in one.quantized.nodes]
    if not one.nodes:
        return tuple(figures)
    names = [node.name for node in one.quantized.nodes]
    activations = [node.name for node in one.quantized.nodes if node.operator == GELU]
    old, new = (by_operation(names, nodes, activations) for nodes in (before, one.nodes))
    return tuple(replace(node, ms_before=old[node.name], ms_after=new[node.name]) for node in figures)


def _warnings(one: _Tried, asked: Asked) -> tuple[str, ...]:
    accuracy = one.point.accuracy
    if accuracy is None or asked.max_drop is None or not accuracy.drop <= asked.max_drop < accuracy.worst:
        return ()
    text = f"The drop may be as large as {accuracy.worst:.3g} {accuracy.unit}".rstrip()
    return (f"{text}: the interval reaches beyond the {asked.max_drop:g} allowed. More samples make it narrower.",)


def _way_out(asked: Asked) -> str:
    """Without data only what folded norms knew gives values a range."""
    if asked.width != "int8" or asked.calibration is not None:
        return ""
    return "Without data a value has a range only where a folded norm knew it: --calibrate DATA gives ranges to all."


@dataclass(frozen=True, slots=True)
class _Tried:
    """A candidate in a file, and what is known of it so far."""

    quantized: Quantized
    file: Runnable
    runs: Runnable
    """What is run to see what it computes: the file, or what emulates it."""
    point: Point
    nodes: Mapping[str, float] = field(default_factory=dict)
    """Milliseconds of the nodes that ran."""
    verification: Verification = field(default_factory=lambda: Verification("skipped"))

    @classmethod
    def written(cls, files: ExitStack, one: Quantized) -> _Tried:
        file = files.enter_context(runnable(one.model))
        problem = CHECKER.rejection(file.file).result()
        if problem is not None:
            raise FindingError("invalid-model", f"The quantised model is not valid ONNX: {problem}", "Report this.")
        name = one.name or one.format
        runs = file if one.emulation is None else files.enter_context(runnable(one.emulation))
        return cls(one, file, runs, Point(name, one.format, one.width, file.file.stat().st_size))


def _judge(
    stack: ExitStack, evaluator: Evaluator, source: OnnxSource, data: Dataset | None, asked: Asked
) -> Judge | None:
    """What scores results on ``data``; None where there are none."""
    if data is None:
        return None
    asked.progress("evaluating")
    file = stack.enter_context(source.runnable())
    return Judge(evaluator, file, data, asked.metric or metrics.metric("top1"), asked.custom_ops)


def _best(tried: Sequence[_Tried], asked: Asked) -> _Tried:
    """The fastest that keeps within its budget of accuracy; the fastest of all where none does."""
    kept = [one for one in tried if _drop_refusal(one, asked) is None] or list(tried)
    timed = [one for one in kept if one.point.latency is not None]
    if not timed:
        return kept[0]
    return min(timed, key=lambda one: one.point.latency.ratio.value if one.point.latency else 1.0)


def _refusal(one: _Tried, asked: Asked) -> FindingError | None:
    proof, latency = one.verification, one.point.latency
    if proof.status not in ("within-budget", "equivalent"):
        message = f"The quantised model differs from its simulation: {proof.because}"
        return FindingError("result-differs", message, "Please report this.")
    if asked.measured and (latency is None or latency.verdict != "faster"):
        took = "could not be timed" if latency is None else f"takes {latency.ratio.value:.3g}x the time of its source"
        return FindingError("not-faster", f"The quantised model {took}, so it was not written.", "--force writes it.")
    if latency is not None and asked.max_latency is not None:
        found = latency.ms_after / 1e3 if asked.absolute else latency.ratio.value
        if found > asked.max_latency:
            said = f"{found * 1e3:.3g} ms" if asked.absolute else f"{found:.3g}x the time of its source"
            wanted = f"{asked.max_latency * 1e3:.3g} ms" if asked.absolute else f"{asked.max_latency:.3g}x"
            return FindingError("budget-missed", f"The fastest model takes {said}; {wanted} was asked for.")
    return _drop_refusal(one, asked)


def _drop_refusal(one: _Tried, asked: Asked) -> FindingError | None:
    accuracy = one.point.accuracy
    if accuracy is None or asked.max_drop is None or accuracy.drop <= asked.max_drop:
        return None
    lost = f"{accuracy.metric} is worse by {accuracy.drop:.3g} {accuracy.unit}".rstrip()
    return FindingError("budget-missed", f"{lost}; a drop of {asked.max_drop:g} is allowed.")


def _stamped(model: onnx_ir.Model, source: OnnxSource, decisions: Sequence[Decision]) -> onnx_ir.Model:
    model.metadata_props["normfold.version"] = __version__
    if source.digest is not None:
        model.metadata_props["normfold.source.sha256"] = source.digest
    sites = {decision.site: decision.outcome for decision in decisions}
    model.metadata_props["normfold.decisions"] = json.dumps(sites, separators=(",", ":"), sort_keys=True)
    return model


def _write(model: onnx_ir.Model, source: OnnxSource, target: Target) -> None:
    if target.path is not None:
        with onnxfile.stage(
            model, Path(target.path), external=target.external_data, source=source.file, in_place=target.in_place
        ) as staged:
            staged.commit()
