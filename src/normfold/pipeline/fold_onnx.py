"""Folding an ONNX model: written beside its target, and compared in a worker with the file that it came from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self

import onnx_ir

from normfold._version import __version__
from normfold.backends.onnx.quantizers import quantizes_activations, take_out_quantizers
from normfold.core.premises import VERIFICATION_FAILED
from normfold.core.preprocess import Preprocess
from normfold.errors import ModelFileError
from normfold.models import onnxfile
from normfold.models.source import OnnxSource, runnable, scratch_path
from normfold.passes.clean import clean
from normfold.passes.fold import onnx_model
from normfold.passes.fuse import fuse
from normfold.passes.preprocess import bound, preprocess
from normfold.passes.rewritten import GraphPass, Rewritten
from normfold.pipeline.prove import CLEANING, FUSING, Proven, prove, refused, unproven
from normfold.proof.comparison import Comparison, Setup
from normfold.proof.files import about, compare_part
from normfold.records import Decision, Progress, Refusal, Verification, decision_record, silent
from normfold.runtime import CHECKER, Evaluator, Runnable

External = Literal["auto", "always", "never"]

MEASURED_BELOW: Final = 32 << 20
"""Bytes of a model up to which the deviation at each norm is measured: it costs a second run of both."""
UNQUANTIZED: Final = "compared without the quantisers of activations and before biases are rounded to their steps"
NOT_VALID: Final = Refusal(VERIFICATION_FAILED, "with it, the result is not valid ONNX")
MENDED: Final = "compared with the source without the biases of zeros that do not fit their convolutions"


@dataclass(frozen=True, slots=True)
class Target:
    """Where a result is written, and how; nowhere without a ``path``."""

    path: Path | None = None
    external_data: External = "auto"
    in_place: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be done, and where the result goes."""

    work: GraphPass
    preprocess: Preprocess | None = None
    target: Target = field(default_factory=Target)
    clean: bool = True
    """Whether to take out what no output depends on, too."""
    allow_contrib: bool = False
    """Whether operators of ONNX Runtime's own may take the place of several."""
    progress: Progress = silent
    newest: int | None = None
    """The opset whose operators norms may be written in; by default, the model's own."""


def fold_unproven(source: OnnxSource, request: Request, because: str) -> Proven[onnx_ir.Model]:
    """Fold ``source``, and write the result without a comparison."""
    with FileFold(source, request) as job:
        done = unproven(job, because)
        if (done.cleaning is not None or done.fused) and job.rejected(done.model) is not None:
            # A wrong declaration may come to light where a branch is known to be taken.
            done = unproven(job, because, {CLEANING: NOT_VALID, FUSING: NOT_VALID})
        job.write(done.model)
        return done


def fold_proven(evaluator: Evaluator, source: OnnxSource, request: Request, setup: Setup) -> Proven[onnx_ir.Model]:
    """Fold ``source``, and write the result once it is proven to be equivalent.

    Raises:
        DiffersError: the result differs from its source.
        UnprovenError: nothing here can run the two.
    """
    with FileFold(source, request) as job:
        job.begin(evaluator, setup)
        done = prove(job)
        job.write(done.model)
        return done


class FileFold:
    """One call: a `Source` for the loop, whose latest result waits beside its target."""

    def __init__(self, source: OnnxSource, request: Request) -> None:
        self._source, self._request = source, request
        first = source.fresh()
        self._first: onnx_ir.Model | None = first
        self._stage = bound(first, request.preprocess)
        self._comparison: Comparison[Runnable] | None = None
        self._evaluator: Evaluator | None = None
        self._setup = Setup(())
        self._files = ExitStack()
        self._result = ExitStack()
        self._latest: tuple[onnx_ir.Model, onnxfile.Staged] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._result.close()
        self._files.close()

    def begin(self, evaluator: Evaluator, setup: Setup) -> None:
        """Start running the source, beside the folding."""
        first = self._copy()
        file = _unquantized(self._source.fresh()) if quantizes_activations(first) else self._source.runnable()
        source = self._files.enter_context(file)
        self._evaluator, self._setup = evaluator, setup
        self._comparison = Comparison(evaluator, about(first, setup).of_raw(self._stage))
        self._comparison.begin(source)
        self._first = first

    def rewritten(self, dropped: Mapping[str, Refusal]) -> Rewritten[onnx_ir.Model]:
        """Put the preprocessing in front of a fresh copy, and fold it; one that nothing changes stays as it came."""
        copy = self._copy()
        self._request.progress("folding")
        if self._stage is not None:
            preprocess(copy, self._stage)
        attempt = onnx_model.rewrite(copy, CHECKER.infer, self._request.work, dropped, self._request.newest)
        if self._comparison is not None and self._per_site and attempt.changed:
            # The evaluator has nothing else to do until the result is written.
            self._comparison.prepare(attempt.pairs)
        changed = attempt.changed or self._stage is not None or self._source.mended
        # What is handed over without a proof is the source itself: folding inlines functions where nothing goes, too.
        model = attempt.model if changed else self._source.fresh()
        model.metadata_props.update(attempt.model.metadata_props)
        self._stamp(model, attempt.decisions)
        attempt = replace(attempt, model=model, changed=changed)
        if self._request.clean and CLEANING not in dropped:
            attempt = clean(attempt, CHECKER.infer)
        if not self._request.allow_contrib:
            return attempt
        return replace(attempt, fused=()) if FUSING in dropped else fuse(attempt, CHECKER.infer)

    def compared(self, attempt: Rewritten[onnx_ir.Model]) -> Verification:
        """Write ``attempt``, check the file, and run it beside the source.

        Raises:
            UnprovenError: the source is too much for this machine.
        """
        if self._comparison is None:
            raise ValueError("compared before begin")
        staged = self.staged(attempt.model)
        # The checker reads the file while it is run.
        rejection = CHECKER.rejection(staged.file)
        self._request.progress("comparing with the source")
        quantized = quantizes_activations(attempt.model)
        with ExitStack() as files:
            result = Runnable(staged.file, staged.data_folder)
            if quantized:
                result = files.enter_context(_unquantized(attempt.model.clone()))
            proof = self._comparison.finish(result, attempt.pairs, per_site=self._per_site)
        if self._comparison.source_fails and self._stage is None:
            proof = self._compared_part(attempt, proof)
        folded = any(decision.outcome != "kept" for decision in attempt.decisions)
        if proof.status == "unavailable" and folded and self._comparison.source_is_too_much:
            # With less of it changed there would be as much to compare.
            raise refused(attempt.decisions, proof)
        problem = self._problem(rejection.result())
        if problem is not None:
            return Verification("different", because=f"result: not valid ONNX: {problem}", failure=problem)
        notes = [proof.because, UNQUANTIZED if quantized else "", MENDED if self._source.mended else ""]
        return replace(proof, because="; ".join(filter(None, notes)))

    def _compared_part(self, attempt: Rewritten[onnx_ir.Model], whole: Verification) -> Verification:
        """The comparison of what was changed alone, where the source as a whole cannot be run."""
        if self._evaluator is None:
            raise ValueError("compared before begin")
        source, result = self._source.fresh(), attempt.model.clone()
        if quantizes_activations(result):
            take_out_quantizers(source)
            take_out_quantizers(result)
        return compare_part(self._evaluator, source, result, self._setup, whole, attempt.pairs)

    def write(self, model: onnx_ir.Model) -> None:
        """Put ``model`` in the place of the target, if there is one.

        Raises:
            OutputError: ``output-not-writable``.
            ModelFileError: ``invalid-model``.
        """
        if self._request.target.path is None:
            return
        problem = self.rejected(model)
        if problem is not None:
            message = f"The folded model is not valid ONNX: {problem}"
            raise ModelFileError("invalid-model", message, "Please report this.")
        if self._latest is not None:
            self._latest[1].commit()

    def rejected(self, model: onnx_ir.Model) -> str | None:
        """Why ``model``, a result to be written that nobody has checked yet, is not valid ONNX."""
        if self._request.target.path is None or (self._latest is not None and self._latest[0] is model):
            return None
        return self._problem(CHECKER.rejection(self.staged(model).file).result())

    @property
    def _per_site(self) -> bool:
        return self._source.nbytes <= MEASURED_BELOW

    def _copy(self) -> onnx_ir.Model:
        first, self._first = self._first, None
        return first or self._source.fresh()

    def staged(self, model: onnx_ir.Model) -> onnxfile.Staged:
        """``model`` written beside its target, or to a folder of its own, in place of the one before."""
        self._request.progress("writing")
        self._result.close()
        target = self._request.target
        path = target.path or self._result.enter_context(scratch_path())
        staged = self._result.enter_context(
            onnxfile.stage(
                model, path, external=target.external_data, source=self._source.file, in_place=target.in_place
            )
        )
        self._latest = (model, staged)
        return staged

    def _problem(self, rejected: str | None) -> str | None:
        """Why the ONNX checker or shape inference ``rejected`` the result, where they do not reject its source, too."""
        if rejected is None:
            return None
        with self._source.runnable() as original:
            return rejected if CHECKER.rejection(original.file).result() is None else None

    def _stamp(self, model: onnx_ir.Model, decisions: Sequence[Decision]) -> None:
        """Write into the model who folded it, from what, and what was decided."""
        model.metadata_props["normfold.version"] = __version__
        if self._source.digest is not None:
            model.metadata_props["normfold.source.sha256"] = self._source.digest
        if self._request.preprocess is not None:
            model.metadata_props["normfold.preprocess"] = str(self._request.preprocess)
        records = [decision_record(decision) for decision in decisions]
        for record in records:
            # Measured later, and not the same on every machine.
            del record["error"]
        model.metadata_props["normfold.decisions"] = json.dumps(records, separators=(",", ":"), sort_keys=True)


@contextmanager
def _unquantized(model: onnx_ir.Model) -> Iterator[Runnable]:
    """``model`` without the quantisers of its activations, in a file written for the occasion; uses it up."""
    take_out_quantizers(model)
    with runnable(model) as file:
        yield file
