"""The job of quantising one model: fold, let the recipe make candidates, prove and measure each, take the best.

What is handed over computes what its simulation in floating point computes, is faster than its source by bench's
verdict, and loses no more accuracy than was allowed. Otherwise nothing is, and the figures say why.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
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
from normfold.passes.quantize.figures import Accuracy, Choice, Format, Latency, NodeFigures, Point, Width
from normfold.passes.quantize.recipe import Quantized, Recipe, Work
from normfold.pipeline.fold_onnx import Request, Target, fold_proven
from normfold.pipeline.quantize.accuracy import Judge
from normfold.pipeline.quantize.proven import proven
from normfold.pipeline.quantize.speed import times
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
        return FORMATS if self.ep == PROVIDER and self.measured else ("qdq",)


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
    )
    asked.progress("quantising")
    made = list(recipe(work))
    if not made:
        raise UsageError("nothing-to-quantize", "No operation of the model can be quantised.", _way_out(asked))
    with ExitStack() as files:
        tried = [_Tried.written(files, one) for one in made]
        asked.progress("comparing with the simulation")
        tried = [
            replace(one, verification=proven(evaluator, one.quantized, one.runs, folded.model, setup, calibration))
            for one in tried
        ]
        holding = [one for one in tried if one.verification.status == "within-budget"]
        judge = _judge(files, evaluator, source, evaluation, asked)
        scored = [_scored(one, judge) for one in holding or tried]
        measured = _measured(source, scored, asked)
        best = _best(measured, asked)
        chosen = _with_unoptimised(best, judge)
        refused = _refusal(chosen, asked)
        model = _stamped(chosen.quantized.model, source, folded.decisions)
        if refused is None or asked.force:
            _write(model, source, asked.target)
        front = tuple(replace(one.point, chosen=one is best) for one in measured)
        return Done(
            model if refused is None or asked.force else None,
            replace(chosen.point, chosen=True),
            chosen.quantized.nodes,
            folded.decisions,
            chosen.verification,
            front,
            source.nbytes,
            refused,
            choices=chosen.quantized.choices,
        )


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


def _scored(one: _Tried, judge: Judge | None) -> _Tried:
    if judge is None:
        return one
    return replace(one, point=replace(one.point, accuracy=judge.accuracy(one.runs)))


def _with_unoptimised(one: _Tried, judge: Judge | None) -> _Tried:
    """With the accuracy where ONNX Runtime rearranges nothing, too."""
    accuracy = one.point.accuracy
    if judge is None or accuracy is None:
        return one
    return replace(one, point=replace(one.point, accuracy=judge.unoptimised(accuracy, one.runs)))


def _measured(source: OnnxSource, tried: Sequence[_Tried], asked: Asked) -> list[_Tried]:
    if not asked.measured:
        return list(tried)
    asked.progress("timing")
    with source.runnable() as reference:
        found = times(
            reference, [one.file for one in tried], asked.conditions, asked.inputs, asked.seed, asked.progress
        )
    return [replace(one, point=replace(one.point, latency=latency)) for one, latency in zip(tried, found, strict=True)]


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
