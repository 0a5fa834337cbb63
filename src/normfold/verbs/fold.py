"""The verbs, for programs: `fold`, `inspect` and `verify`.

A model is a path, an ``onnx.ModelProto`` or an ``onnx_ir.Model``; `fold` and `inspect` take an ``nn.Module``, too.
"""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import onnx

from normfold.core.premises import VERIFICATION_FAILED
from normfold.models.deferred import deferring

with deferring("sympy"):
    import onnx_ir

from normfold._version import __version__
from normfold.backends.onnx import OnnxGraph, bind
from normfold.backends.onnx.quantizers import quantizes_activations, take_out_quantizers
from normfold.core import driver as engine
from normfold.core.costs import DEFAULT, CostTable, cost_table
from normfold.core.preprocess import Preprocess, Stage
from normfold.errors import ModelFileError, UsageError
from normfold.models import onnxfile as modelfile
from normfold.models.data import Arrays, Shapes, user_inputs
from normfold.proof.comparison import Comparison, Setup
from normfold.proof.probes import input_specs
from normfold.records import (
    Decision,
    Pair,
    Progress,
    Refusal,
    SiteReport,
    StatisticsRecord,
    Verification,
    counts,
    decision_record,
    silent,
    site_record,
    statistics_record,
)
from normfold.report.blocks import Blocks, Detail, Heading
from normfold.report.decisions import norm_blocks
from normfold.report.result import Result
from normfold.runtime import Evaluator, Runnable
from normfold.verbs.fold_result import DiffersError, FoldResult, UnprovenError

if TYPE_CHECKING:
    from torch import nn

Path_ = str | os.PathLike[str]
Model = onnx_ir.Model | onnx.ModelProto
External = Literal["auto", "always", "never"]

RANDOM: Final = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}
)
"""Operators that answer differently each time."""
MEASURED_BELOW: Final = 32 << 20
"""Bytes of a model up to which the deviation at each norm is measured: it costs a second run of both."""
IN_VAIN: Final = 8
"""Folds dropped one after the other without the result coming any closer to its source: then none was at fault."""
SMOOTHED: Final = "compared without the quantisers of activations and before biases are rounded to their steps"
COARSE: Final = ("bfloat16", "float16")
"""Types whose rounding decides how close two models can be, coarsest first."""


@dataclass(frozen=True, slots=True, repr=False)
class InspectResult(Result):
    """The norms of a model in topological order, and what they know about its values."""

    norms: tuple[SiteReport, ...]
    records: tuple[StatisticsRecord, ...] = ()
    source: str | None = None
    """The model, as it was named; None for one in memory."""

    def report(self, detail: Detail = Detail.NORMAL) -> Blocks:
        """A row for every norm with the decision that `fold` would take, and the counts."""
        named = self.source is not None and detail > Detail.SUMMARY
        return (*((Heading(str(self.source)),) if named else ()), *norm_blocks(self.norms, detail))

    def document(self) -> dict[str, Any]:
        """The norms; the counts say what `fold` would reach."""
        return {
            "source": self.source,
            "norms": [site_record(norm) for norm in self.norms],
            "counts": counts(norm.would for norm in self.norms),
            "records": [statistics_record(record) for record in self.records],
        }


@dataclass(frozen=True, slots=True)
class _Source:
    """A model to work on: a fresh copy at each call of ``fresh``, and a file that can be run."""

    fresh: Callable[[], onnx_ir.Model]
    digest: str | None
    """SHA-256 of the file's bytes; ``None`` for a model that never had any."""
    file: modelfile.ModelFile | None = None
    proto: bool = False

    @property
    def nbytes(self) -> int:
        """Size of the model's files; 0 for one in memory."""
        return self.file.nbytes if self.file else 0

    @contextmanager
    def runnable(self) -> Iterator[Runnable]:
        """The model's own file, or one written for the occasion."""
        if self.file is not None:
            yield Runnable(self.file.file, self.file.data_folder)
            return
        with _scratch() as path, modelfile.stage(self.fresh(), path) as staged:
            yield Runnable(staged.file, staged.data_folder)


def fold(  # noqa: PLR0913 - each keyword is an option of the command line
    model: Path_ | Model | nn.Module,
    output: Any = None,
    *,
    shapes: Shapes | None = None,
    inputs: Arrays | Path_ | None = None,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    seed: int = 0,
    custom_ops: Sequence[str] = (),
    verify: bool = True,
    external_data: External = "auto",
    in_place: bool = False,
    dry_run: bool = False,
    preprocess: Preprocess | None = None,
    allow_inserted: bool = False,
    ep: str = DEFAULT,
    progress: Progress = silent,
) -> FoldResult:
    """Fold the norms of ``model`` and, if ``output`` is given, write the result there in one step.

    An ``nn.Module`` comes back as one of the same make, with ``nn.Identity`` for norms. It takes the keywords ``only``,
    ``skip``, ``seed``, ``verify``, ``in_place``, ``dry_run`` and ``progress``.

    Args:
        model: a path, a ``ModelProto``, an ``onnx_ir.Model`` or an ``nn.Module``; left as it is.
        output: where to write; nothing is written unless the result is proven (or ``verify`` is off).
            For a module, its example inputs: a tuple of positional arguments, a dict of named ones, or the only one.
        shapes: by input name, for inputs with free sizes.
        inputs: arrays by input name to compare on, or the path of an ``.npz`` file of them.
        only: glob patterns; norms whose site matches none of them are kept.
        skip: glob patterns; norms whose site matches one of them are kept.
        seed: for the random test inputs.
        custom_ops: libraries of custom operators, loaded to run the model.
        verify: compare the result with the source.
        external_data: whether weights go into a file of their own; "auto" does as the source does.
        in_place: allow ``output`` to be ``model``; fold a module itself instead of a copy.
        dry_run: decide only; the source's copy that comes back is folded but neither compared nor written.
        allow_inserted: insert operations for a fold also where the cost table says that it does not pay.
        ep: the execution provider whose cost table decides.
        preprocess: what is done to a picture before ``model`` sees it; the result does it itself. Shapes and arrays
            of that input are then those of the raw picture.
        progress: told what is being done.

    Raises:
        DiffersError: the result differs from its source.
        UnprovenError: nothing here can run the two.
        NormfoldError: any other reason, with its code.
    """
    module = module_of(model)
    if module is not None:
        if shapes or inputs or custom_ops or preprocess or allow_inserted:
            raise UsageError("usage", "shapes, inputs, custom_ops, preprocess and allow_inserted are for ONNX models.")
        how: Literal["prove", "skip", "dry"] = "dry" if dry_run else "prove" if verify else "skip"
        return _fold_module(module, output, how, only=only, skip=skip, seed=seed, in_place=in_place, progress=progress)
    target = None if output is None else Path(output)
    costs = replace(cost_table(ep), lenient=allow_inserted)

    def job() -> _Job:
        progress("reading")
        return _Job(
            _source(model), tuple(only), tuple(skip), external_data, in_place, target, preprocess, costs, progress
        )

    if dry_run:
        return job().unproven("a dry run compares nothing", write=False)
    if not verify:
        return job().unproven("not asked for", write=True)
    with Evaluator() as evaluator:
        # Its imports overlap with the reading.
        evaluator.start()
        return job().proven(evaluator, Setup((), user_inputs(shapes, inputs), seed=seed, custom_ops=custom_ops))


def inspect(
    model: Path_ | Model | nn.Module, example_inputs: Any = None, *, progress: Progress = silent
) -> InspectResult:
    """The norms of ``model``, the health of their statistics, and what `fold` would decide.

    An ``nn.Module`` needs ``example_inputs``, as `fold` does.

    Raises:
        NormfoldError: the model cannot be read.
    """
    module = module_of(model)
    if module is not None:
        from normfold.pipeline import modules as folding

        return InspectResult(*folding.inspect(module, example_inputs, progress))
    progress("reading")
    copy = _source(model).fresh()
    progress("inspecting")
    return InspectResult(*engine.inspect(OnnxGraph(copy)))


def module_of(model: Any) -> nn.Module | None:
    """``model``, or the ``model`` of a learner, where that is an ``nn.Module``; found out without importing torch."""
    torch = sys.modules.get("torch")
    found = (one for one in (model, getattr(model, "model", None)) if torch and isinstance(one, torch.nn.Module))
    return next(found, None)


def _fold_module(module: nn.Module, inputs: Any, how: Literal["prove", "skip", "dry"], **options: Any) -> FoldResult:
    from normfold.pipeline import modules as folding

    done = folding.fold(module, inputs, how, **options)
    if done.verification.status in ("different", "unavailable"):
        raise _refused(done.decisions, done.verification)
    return FoldResult(done.module, done.decisions, done.verification, done.change.removed, done.change.added)


def verify(  # noqa: PLR0913 - each keyword is an option of the command line
    model: Path_ | Model,
    other: Path_ | Model,
    *,
    shapes: Shapes | None = None,
    inputs: Arrays | Path_ | None = None,
    rtol: float | None = None,
    seed: int = 0,
    custom_ops: Sequence[str] = (),
    progress: Progress = silent,
) -> Verification:
    """Compare ``other`` with ``model`` on random and adversarial inputs.

    ``rtol`` is the largest deviation allowed, of each output's range; by default the output's type decides.
    Inputs are given as to `fold`. Where nothing can run the two the status is "unavailable".

    Raises:
        NormfoldError: a model cannot be read, or an input given does not fit.
    """
    with Evaluator() as evaluator, ExitStack() as files:
        evaluator.start()
        progress("reading")
        source, result = _source(model), _source(other)
        setup = Setup((), user_inputs(shapes, inputs), rtol=rtol, seed=seed, custom_ops=custom_ops)
        comparison = Comparison(evaluator, _about(source.fresh(), setup))
        progress("running both")
        comparison.begin(files.enter_context(source.runnable()))
        return comparison.finish(files.enter_context(result.runnable()))


@dataclass(frozen=True, slots=True)
class _Job:
    """One call of `fold`."""

    source: _Source
    only: tuple[str, ...]
    skip: tuple[str, ...]
    external: External
    in_place: bool
    output: Path | None
    preprocess: Preprocess | None
    costs: CostTable
    progress: Progress

    def unproven(self, because: str, *, write: bool) -> FoldResult:
        """Fold, and write without a comparison if ``write``."""
        copy = self.source.fresh()
        folding, model = self._fold(copy, {}, self._bound(copy))
        if write and self.output is not None:
            with self._stage(model) as staged:
                staged.commit()
        return self._result(model, folding.decisions, Verification("skipped", because=because))

    def proven(self, evaluator: Evaluator, setup: Setup) -> FoldResult:
        """Fold; where the result differs, drop the fold at which it parts from the source, and fold anew."""
        dropped: dict[str, Refusal] = {}
        least, in_vain = math.inf, 0
        copy = self.source.fresh()
        with _smooth(self.source.fresh()) if quantizes_activations(copy) else self.source.runnable() as runnable:
            stage = self._bound(copy)
            comparison = Comparison(evaluator, _about(copy, setup).of_raw(stage))
            comparison.begin(runnable)
            while True:
                folding, model = self._fold(copy, dropped, stage)
                proof = self._prove(model, folding.pairs, comparison)
                if proof.status == "equivalent":
                    return self._result(model, _measured(folding.decisions, proof), proof)
                at_fault = _at_fault(folding.decisions, proof)
                deviation = math.inf if proof.max_rel is None else proof.max_rel
                in_vain = 0 if deviation < least else in_vain + 1
                least = min(least, deviation)
                if at_fault is None or proof.status != "different" or in_vain > IN_VAIN:
                    raise _refused(folding.decisions, proof)
                because = f"With it folded, the model differs from its source: {proof.because}."
                dropped[at_fault] = Refusal(VERIFICATION_FAILED, because)
                copy = self.source.fresh()

    def _bound(self, copy: onnx_ir.Model) -> Stage | None:
        return None if self.preprocess is None else bind(copy, self.preprocess)

    def _fold(
        self, copy: onnx_ir.Model, dropped: Mapping[str, Refusal], stage: Stage | None
    ) -> tuple[engine.Folding, onnx_ir.Model]:
        self.progress("folding")
        graph = OnnxGraph(copy, stage)
        folding = engine.fold(graph, only=self.only, skip=self.skip, exclude=dropped, costs=self.costs)
        _stamp(graph.model, self.source.digest, folding.decisions, self.preprocess)
        return folding, graph.model

    def _prove(self, model: onnx_ir.Model, pairs: Sequence[Pair], comparison: Comparison[Runnable]) -> Verification:
        """Compare ``model`` as it would be written, and write it if it is equivalent."""
        with self._stage(model) as staged:
            self.progress("comparing with the source")
            quantized = quantizes_activations(model)
            with (
                _smooth(model.clone())
                if quantized
                else nullcontext(Runnable(staged.file, staged.data_folder)) as runnable
            ):
                proof = comparison.finish(runnable, pairs, per_site=self.source.nbytes <= MEASURED_BELOW)
            if quantized:
                proof = replace(proof, because="; ".join(filter(None, [proof.because, SMOOTHED])))
            if proof.status == "equivalent" and self.output is not None:
                staged.commit()
        return proof

    @contextmanager
    def _stage(self, model: onnx_ir.Model) -> Iterator[modelfile.Staged]:
        """``model`` written beside its target, or to a folder of its own, and checked."""
        self.progress("writing")
        with ExitStack() as stack:
            target = self.output or stack.enter_context(_scratch())
            staged = stack.enter_context(
                modelfile.stage(model, target, external=self.external, source=self.source.file, in_place=self.in_place)
            )
            _check(staged, self.source)
            yield staged

    def _result(self, model: onnx_ir.Model, decisions: tuple[Decision, ...], proof: Verification) -> FoldResult:
        return FoldResult(modelfile.to_proto(model) if self.source.proto else model, decisions, proof)


def _source(model: Path_ | Model | nn.Module) -> _Source:
    if isinstance(model, onnx.ModelProto):
        modelfile.check_structure(model)
        digest = sha256(model.SerializeToString(deterministic=True)).hexdigest()
        return _Source(lambda: modelfile.from_proto(model), digest, proto=True)
    if isinstance(model, onnx_ir.Model):
        return _Source(model.clone, None)
    if not isinstance(model, str | os.PathLike):
        kind = type(model).__name__
        raise UsageError("usage", f"A model is a path, an onnx.ModelProto or an onnx_ir.Model, not a {kind}.")
    file = modelfile.read(model)
    copies = iter([file.model])
    return _Source(lambda: next(copies, None) or modelfile.read(model).model, file.sha256, file)


@contextmanager
def _smooth(model: onnx_ir.Model) -> Iterator[Runnable]:
    """``model`` without the quantisers of its activations, written for the occasion; uses it up."""
    take_out_quantizers(model)
    with _scratch() as path, modelfile.stage(model, path) as staged:
        yield Runnable(staged.file, staged.data_folder)


@contextmanager
def _scratch() -> Iterator[Path]:
    """A file name in a folder that goes away."""
    with tempfile.TemporaryDirectory(prefix="normfold-") as folder:
        yield Path(folder) / "model.onnx"


def _about(model: onnx_ir.Model, setup: Setup) -> Setup:
    """``setup`` with what the model itself says: its inputs, its precision, its randomness."""
    types = {value.dtype.name.lower() for value in model.graph.initializers.values() if value.dtype is not None}
    functions = chain.from_iterable(function.all_nodes() for function in model.functions.values())
    operators = {node.op_type for node in chain(model.graph.all_nodes(), functions)}
    return replace(
        setup,
        inputs=input_specs(model),
        precision=next((name for name in COARSE if name in types), None),
        random=not RANDOM.isdisjoint(operators),
    )


def _stamp(
    model: onnx_ir.Model, digest: str | None, decisions: Sequence[Decision], preprocess: Preprocess | None
) -> None:
    """Write into the model who folded it, from what, and what was decided."""
    model.metadata_props["normfold.version"] = __version__
    if digest is not None:
        model.metadata_props["normfold.source.sha256"] = digest
    if preprocess is not None:
        model.metadata_props["normfold.preprocess"] = str(preprocess)
    records = [decision_record(decision) for decision in decisions]
    for record in records:
        # Measured later, and not the same on every machine.
        del record["error"]
    model.metadata_props["normfold.decisions"] = json.dumps(records, separators=(",", ":"), sort_keys=True)


def _check(staged: modelfile.Staged, source: _Source) -> None:
    """Raise where the ONNX checker or shape inference rejects the result but not its source."""
    problem = rejection(staged.file)
    if problem is None:
        return
    with source.runnable() as original:
        if rejection(original.file) is None:
            raise ModelFileError(
                "invalid-model", f"The folded model is not valid ONNX: {problem}", "Please report this."
            )


def rejection(file: Path) -> str | None:
    """Why the ONNX checker or shape inference rejects ``file``, in one line."""
    try:
        onnx.checker.check_model(str(file), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        return " ".join(str(error).split())
    return None


def _measured(decisions: Sequence[Decision], proof: Verification) -> tuple[Decision, ...]:
    """The decisions with the deviation seen at each norm."""
    return tuple(replace(decision, error=proof.errors.get(decision.site)) for decision in decisions)


def _at_fault(decisions: Sequence[Decision], proof: Verification) -> str | None:
    """The first norm at which the two part, if leaving its fold out could help."""
    changed = {decision.site for decision in decisions if decision.outcome != "kept"}
    return proof.first_divergence if proof.first_divergence in changed else None


def _refused(decisions: tuple[Decision, ...], proof: Verification) -> UnprovenError:
    because = f": {proof.because}" if proof.because else "."
    if proof.status == "different":
        message = f"The folded model differs from its source, so it is not handed over{because}"
        return DiffersError("result-differs", message, "Find the norm at fault with --skip.", decisions, proof)
    message = f"The folded model cannot be compared with its source, so it is not handed over{because}"
    hint = "Fold without the comparison: --no-verify, or verify=False."
    return UnprovenError("unverified", message, hint, decisions, proof)
