"""`quantize`: make a model narrower, prove it, and hand it over where it is faster and accurate enough."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normfold.errors import EnvironmentUnavailableError, FindingError, UsageError, suggestion
from normfold.limits import limited
from normfold.measure import metrics
from normfold.measure.candidate import Conditions
from normfold.measure.scores import UserMetric
from normfold.models import onnxfile
from normfold.models.data import Arrays, Shapes, user_inputs
from normfold.models.source import File, name_of, onnx_source
from normfold.passes.quantize.figures import Accuracy, Choice, Format, Latency, NodeFigures, Point, Width
from normfold.passes.quantize.recipes import RECIPES
from normfold.pipeline.fold_onnx import External, Target
from normfold.pipeline.quantize.floating import FLOAT, floating, settled
from normfold.pipeline.quantize.run import Asked, Done
from normfold.pipeline.quantize.run import quantize as run
from normfold.proof.comparison import Setup
from normfold.records import Decision, Progress, Verification, decision_record, silent, verification_record
from normfold.report.blocks import Blocks, Column, Detail, Heading, Interval, Paragraph, Table, Verdict
from normfold.report.decisions import verification_blocks
from normfold.report.result import Result
from normfold.report.words import plural
from normfold.runtime import CHECKER, Evaluator, processors, providers
from normfold.verbs.exporting import exported_file

if TYPE_CHECKING:
    from torch import nn

    from normfold.models.source import OnnxModel

SECONDS = 600.0
"""Time limit where none is given."""
WIDTHS = (*RECIPES, FLOAT)
"""What can be asked for."""
MAX_DROP = 0.2
"""Largest loss, in the metric's own unit, where there are data to measure it on and no other is given."""
KEPT_NAMED = 12
"""Rows of the table of operations that stay in floating point."""


@dataclass(frozen=True, slots=True, repr=False)
class QuantizeResult(Result):
    """A quantised model, what each of its operations computes in, and what that costs and gains."""

    model: Any
    """Of the kind that came in (``onnx_ir.Model`` for a path or a module); None where it was refused."""
    chosen: Point
    nodes: tuple[NodeFigures, ...]
    decisions: tuple[Decision, ...]
    verification: Verification
    front: tuple[Point, ...]
    """All that was tried."""
    refused: FindingError | None = None
    """Why nothing was written."""
    source: str | None = None
    output: str | None = None
    nbytes_before: int = 0
    warnings: tuple[str, ...] = ()
    choices: tuple[Choice, ...] = ()
    """Parts of the recipe that were tried on held-out calibration samples, and which stayed."""
    write: Callable[[Path], None] | None = field(default=None, compare=False)

    @property
    def accuracy(self) -> Accuracy | None:
        """Of the model chosen; None where there was nothing to measure it on."""
        return self.chosen.accuracy

    @property
    def latency(self) -> Latency | None:
        """Of the model chosen; None where its execution provider is absent."""
        return self.chosen.latency

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model in one step.

        Raises:
            OutputError: ``output-not-writable``.
        """
        if self.write is None:
            raise ValueError("there is no model to write")
        self.write(Path(path))

    def report(self, detail: Detail = Detail.NORMAL) -> Blocks:
        """What was tried, what stays in floating point, the accuracy, the proof and the verdict."""
        verdict = Verdict(self._verdict(), "bad" if self.refused else "good")
        if detail == Detail.SUMMARY:
            return (verdict,)
        title = f"{self.source} -> {self.output}" if self.output else f"{self.source}: nothing written"
        return (
            *((Heading(title),) if self.source else ()),
            *(() if self.chosen.width == FLOAT else (self._tried(), *self._kept(detail))),
            *(Paragraph(f"note: {warning}", "caution") for warning in self.warnings),
            *self._recipe(),
            *self._accuracy(),
            *verification_blocks(self.verification, detail),
            verdict,
        )

    def _tried(self) -> Table:
        columns = (Column("model"), Column("format"), Column("width"), Column("size", "right"), Column("time"))
        rows = tuple(
            (
                ("* " if one.chosen else "  ") + one.name,
                one.format,
                one.width,
                f"{one.nbytes / 2**20:.3g} MiB",
                "-" if one.latency is None else _ratio(one.latency),
            )
            for one in self.front
        )
        return Table(columns, rows)

    def _kept(self, detail: Detail) -> Blocks:
        kept = [node for node in self.nodes if node.because]
        shown = kept if detail == Detail.FULL else kept[:KEPT_NAMED]
        said = f"{len(self.nodes) - len(kept)} of {plural(len(self.nodes), 'operation')} quantised"
        rows = tuple((node.operator, node.name, node.because) for node in shown)
        more = (f"and {len(kept) - len(shown)} more",) if len(kept) > len(shown) else ()
        columns = (Column("operator"), Column("node"), Column("in floating point because"))
        return Paragraph(said), *((Table(columns, rows, notes=more),) if rows else ())

    def _recipe(self) -> Blocks:
        """Which parts of the recipe stayed, and the loss of outputs on held-out samples without and with them."""
        kept = [choice for choice in self.choices if choice.kept]
        if not kept:
            return ()
        # Of the ways to choose ranges the last one that was better is in use.
        ways = [choice.name for choice in kept if choice.name.startswith("ranges by")][-1:]
        others = [choice.name for choice in kept if not choice.name.startswith("ranges by")]
        losses = f"{self.choices[0].loss:.2g} with {self.choices[0].name} alone, {kept[-1].loss:.2g} with all"
        return (Paragraph(f"{', '.join([*ways, *others])}; noise over signal {losses}"),)

    def _accuracy(self) -> Blocks:
        found = self.accuracy
        if found is None:
            return ()
        change = found.difference
        interval = f"{change.value:+.3g} ({change.low:+.3g} to {change.high:+.3g}) {found.unit}".rstrip()
        samples = plural(found.samples, "sample")
        return (Paragraph(f"{found.metric}: {found.before:.5g} -> {found.after:.5g}, {interval}, on {samples}"),)

    def _verdict(self) -> str:
        if self.refused is not None:
            return f"refused [{self.refused.code}]: {self.refused.message}"
        if self.chosen.width == FLOAT:
            return "in floating point again: what the codes stand for, without their quantisers"
        if self.latency is None:
            return "written unmeasured: its execution provider is not here"
        ratio = self.latency.ratio
        return f"takes {ratio.value:.3g}x the time of its source ({ratio.low:.3g} to {ratio.high:.3g})"

    def document(self) -> dict[str, Any]:
        """All of it; ``output`` is None where nothing was written."""
        return {
            "source": self.source,
            "output": self.output,
            "width": self.chosen.width,
            "format": self.chosen.format,
            "nodes": [node.record() for node in self.nodes],
            "accuracy": None if self.accuracy is None else self.accuracy.record(),
            "latency": None if self.latency is None else self.latency.record(),
            "front": [point.record() for point in self.front],
            "recipe": [choice.record() for choice in self.choices],
            "decisions": [decision_record(decision) for decision in self.decisions],
            "verification": verification_record(self.verification),
            "bytes": {"before": self.nbytes_before, "after": self.chosen.nbytes},
            "refused": None if self.refused is None else self.refused.record(),
            "warnings": list(self.warnings),
        }


def _ratio(latency: Latency) -> Interval:
    return Interval(latency.ratio.value, latency.ratio.low, latency.ratio.high, unit="x")


def quantize(
    model: OnnxModel | nn.Module,
    example_inputs: Any = None,
    *,
    output: File | None = None,
    calibrate: Any = None,
    evaluate: Any = None,
    metric: str | UserMetric | None = None,
    max_drop: float | None = None,
    max_latency: float | str | None = None,
    width: Width = "int8",
    format: Format = "auto",  # noqa: A002 - the option's name
    ep: str = "cpu",
    requantize: bool = False,
    unmeasured: bool = False,
    shapes: Shapes | None = None,
    inputs: Arrays | File | None = None,
    threads: int | None = None,
    batch: int | None = None,
    seed: int = 0,
    custom_ops: tuple[str, ...] = (),
    external_data: External = "auto",
    in_place: bool = False,
    force: bool = False,
    cache: File | None = None,
    time_limit: float | None = None,
    memory_limit: int | None = None,
    progress: Progress = silent,
) -> QuantizeResult:
    """Fold ``model``, quantise it, prove and measure the result, and write it to ``output`` if it is faster.

    Args:
        model: a path, a ``ModelProto``, an ``onnx_ir.Model`` or an ``nn.Module``, which is exported first.
        example_inputs: what an ``nn.Module`` is exported with.
        output: where to write; nothing is written unless the result is proven, faster and within the budget.
        calibrate: data to choose scales on; without, they come from the statistics that the folded norms knew.
        evaluate: data to measure the accuracy on.
        metric: "top1", "mse", "cosine", ``package.module:function`` or a function.
        max_drop: largest loss of the metric, in its own unit, 0.2 by default: points for "top1". Where it is missed,
            operations go back to floating point, as few as will do.
        max_latency: "3ms", "0.5x" or a number of seconds.
        width: what to compute in.
        format: "qdq" writes standard operators only, "contrib" may use ONNX Runtime's own, "auto" takes the faster.
        ep: execution provider that the result runs on.
        requantize: start anew from what the codes of a quantised model stand for; without, it is refused, unless
            ``width`` is "fp32", which makes it floating point again.
        unmeasured: write for a provider that is not here, without figures.
        shapes: by input name, for inputs with dynamic dimensions.
        inputs: arrays by input name to compare and time on, or the path of an ``.npz`` file of them.
        threads: threads within an operation while timing; by default one for each core.
        batch: size of the inputs' free first dimension while timing.
        seed: for random inputs and the order of blocks.
        custom_ops: libraries of custom operators, loaded to run the model.
        external_data: whether weights go into a file of their own; "auto" does as the source does.
        in_place: allow ``output`` to be ``model``.
        force: write also what misses its budget or is not faster.
        cache: a folder in which a search for the budget keeps what it measured, so that it can go on where it stopped.
        time_limit: seconds for the whole call; by default ten minutes.
        memory_limit: bytes that each process may take; by default what model and inputs of their size need.
        progress: called with what is being done.

    Returns:
        The model with its figures; where it is ``refused``, the figures alone.

    Raises:
        NormfoldError: the model or the data cannot be used, with the code.
    """
    with limited(time_limit, memory_limit, SECONDS):
        _check(width, format, ep, measured=not unmeasured)
        limit, absolute = latency_limit(max_latency)
        asked = Asked(
            width,
            format,
            ep,
            calibration=calibrate,
            evaluation=evaluate,
            metric=None if metric is None else metrics.metric(metric),
            max_drop=MAX_DROP if max_drop is None and evaluate is not None else max_drop,
            max_latency=limit,
            absolute=absolute,
            measured=not unmeasured,
            cache=None if cache is None else Path(cache),
            force=force,
            conditions=Conditions(batch, threads or processors.cores(processors.usable())),
            inputs=user_inputs(shapes, inputs),
            custom_ops=tuple(custom_ops),
            seed=seed,
            target=Target(None if output is None else Path(output), external_data, in_place),
            progress=progress,
        )
        CHECKER.start()
        with ExitStack() as stack:
            file = stack.enter_context(exported_file(model, example_inputs))
            evaluator = stack.enter_context(Evaluator())
            evaluator.start()
            progress("reading")
            source = onnx_source(file)
            evaluator.expect(source.nbytes)
            setup = Setup((), asked.inputs, seed=seed, custom_ops=asked.custom_ops)
            if width == FLOAT:
                done = floating(evaluator, source, setup, asked.target)
            else:
                source = settled(evaluator, source, setup, requantize=requantize)
                done = run(evaluator, source, RECIPES[width], asked)
        return _result(done, model, None if done.model is None else source.like_source(done.model), output)


def _check(width: Width, form: Format, ep: str, *, measured: bool) -> None:
    """Raise what keeps such a model from being made, or from being measured."""
    if width not in WIDTHS:
        raise UsageError("usage", f"There is no width {width!r}.", f"Choose one of {', '.join(WIDTHS)}.")
    if ep not in providers.PROVIDERS:
        hint = suggestion(ep, providers.PROVIDERS) or f"There are: {', '.join(providers.PROVIDERS)}."
        raise UsageError("usage", f"There is no execution provider {ep!r}.", hint)
    if (width, form) == ("int4", "qdq"):
        raise UsageError("usage", "int4 has an operator of ONNX Runtime's own.", "Leave the format out.")
    if form == "contrib" and (ep != providers.DEFAULT or width == "a16w8"):
        message = "ONNX Runtime's own operators on codes are the CPU's, and of eight bits."
        raise UsageError("usage", message, "Leave the format out.")
    if measured and width != FLOAT and providers.PROVIDERS[ep] not in providers.available():
        message = f"The execution provider {ep} is not part of the installed ONNX Runtime: it cannot be measured."
        hint = "--unmeasured writes the model without figures of speed; what it computes is verified on the CPU."
        raise EnvironmentUnavailableError("provider-unavailable", message, hint)


def _result(done: Done, model: object, made: object, output: File | None) -> QuantizeResult:
    written = output if made is not None else None
    target = done.model
    return QuantizeResult(
        made,
        done.chosen,
        done.nodes,
        done.decisions,
        done.verification,
        done.front,
        done.refused,
        name_of(model),
        name_of(written),
        done.nbytes_before,
        done.warnings,
        done.choices,
        None if target is None else lambda path: onnxfile.write(target, path),
    )


def latency_limit(text: float | str | None) -> tuple[float | None, bool]:
    """A limit on the time of a run, and whether it is in seconds; else it is over the source's."""
    if text is None or isinstance(text, int | float):
        return text, True
    units: Mapping[str, tuple[float, bool]] = {"ms": (1e-3, True), "s": (1.0, True), "x": (1.0, False)}
    for unit, (scale, absolute) in units.items():
        number = text.removesuffix(unit)
        if number != text and number.replace(".", "", 1).isdigit() and float(number) > 0:
            return float(number) * scale, absolute
    raise UsageError("usage", f"max_latency is {text!r}.", "Write 3ms, 0.1s or 0.5x.")
