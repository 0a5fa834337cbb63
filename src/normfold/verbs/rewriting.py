"""What the verbs share that hand back a model which a pass has rewritten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normfold.core.preprocess import Preprocess
from normfold.errors import UsageError
from normfold.models import onnxfile
from normfold.models.data import Arrays, Shapes, user_inputs
from normfold.models.source import File, OnnxSource, is_onnx, module_of, name_of, onnx_source
from normfold.passes.fold.selection import Selection
from normfold.passes.rewritten import GraphPass
from normfold.pipeline.fold_onnx import External, Request, Target, fold_proven, fold_unproven
from normfold.pipeline.prove import Proven, prove, unproven
from normfold.proof.comparison import Setup
from normfold.records import Progress
from normfold.runtime import CHECKER, Evaluator
from normfold.verbs.fold_result import FoldResult

if TYPE_CHECKING:
    import onnx_ir
    from torch import nn

    from normfold.passes.fold.module import FoldedModule
    from normfold.pipeline.fold_module import ModuleFold

NOT_ASKED_FOR = "not asked for"
DRY_RUN = "a dry run compares nothing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What the verbs that rewrite a model have in common, as their callers name it; ``work`` is what is done to it."""

    work: GraphPass
    selection: Selection
    output: File | None
    shapes: Shapes | None
    inputs: Arrays | File | None
    seed: int
    custom_ops: Sequence[str]
    verify: bool
    external_data: External
    in_place: bool
    dry_run: bool
    progress: Progress
    preprocess: Preprocess | None = None
    clean: bool = True
    opset: int | None = None
    allow_contrib: bool = False

    def run(self, model: object, example_inputs: Any) -> FoldResult[Any]:
        """``model`` rewritten: an ``nn.Module``, called with ``example_inputs``, or an ONNX model.

        Raises:
            UsageError: ``usage`` where an option is for the other kind of model.
        """
        skipped = DRY_RUN if self.dry_run else "" if self.verify else NOT_ASKED_FOR
        target = None if self.output is None or self.dry_run else Path(self.output)
        module = module_of(model)
        if module is not None:
            return self._module(module, example_inputs, target, skipped)
        if example_inputs is not None and is_onnx(model):
            hint = "ONNX models take inputs={name: array}, and output=PATH."
            raise UsageError("usage", "example_inputs are for modules.", hint)
        written = Target(target, self.external_data, self.in_place)
        request = Request(
            self.work,
            self.preprocess,
            written,
            clean=self.clean,
            allow_contrib=self.allow_contrib,
            progress=self.progress,
            newest=self.opset,
        )
        asked = Setup((), user_inputs(self.shapes, self.inputs), seed=self.seed, custom_ops=self.custom_ops)
        return rewrite_file(model, request, self.selection, asked, skipped)

    def refuse_file_options(self) -> None:
        """Raise `UsageError` ``usage`` where an option is for ONNX models."""
        if self.shapes or self.inputs or self.custom_ops or self.preprocess or not self.clean or self.opset:
            raise UsageError("usage", "shapes, inputs, custom_ops, preprocess, clean and opset are for ONNX models.")

    def _module(self, module: nn.Module, example: Any, target: Path | None, skipped: str) -> FoldResult[nn.Module]:
        self.refuse_file_options()
        from normfold.models.module.example import Example
        from normfold.models.module.untouched import untouched
        from normfold.pipeline.fold_module import ModuleFold

        check_target(target)
        itself = self.in_place and not self.dry_run
        job = ModuleFold(module, Example.of(example), self.work, self.seed, self.progress, itself)
        with untouched(), job.whole():
            done = unproven(job, skipped) if skipped else prove(job)
            return handed_over(job, done, self.selection, target)


def rewrite_file(model: object, request: Request, selection: Selection, asked: Setup, skipped: str) -> FoldResult[Any]:
    """``model`` rewritten as ``request`` says, and proven on inputs as ``asked``; ``skipped`` says why not."""
    progress = request.progress
    # The imports of the workers overlap with the reading.
    CHECKER.start()
    if skipped:
        progress("reading")
        source = onnx_source(model)
        done = fold_unproven(source, request, skipped)
    else:
        with Evaluator() as evaluator:
            evaluator.start()
            progress("reading")
            source = onnx_source(model)
            evaluator.expect(source.nbytes)
            done = fold_proven(evaluator, source, request, asked)
    return file_result(source, done, model, request, selection)


def file_result(
    source: OnnxSource, done: Proven[onnx_ir.Model], model: object, request: Request, selection: Selection
) -> FoldResult[Any]:
    """What came of ``model``, the ``source``."""
    target = request.target
    return FoldResult(
        source.like_source(done.model),
        done.decisions,
        done.verification,
        source=name_of(model),
        output=name_of(target.path),
        sizes=done.sizes,
        unmatched=selection.unmatched(decision.site for decision in done.decisions),
        cleaning=done.cleaning,
        fused=done.fused,
        write=lambda path: onnxfile.write(done.model, path, external=target.external_data, source=source.file),
    )


def check_target(target: Path | None) -> None:
    """Raise `UsageError` where ``target`` is no name for the state of a module."""
    from normfold.models.module.save import SUFFIX

    if target is not None and target.suffix != SUFFIX:
        hint = "Write .onnx with normfold.export, and .pt2 with normfold.fold_program."
        raise UsageError("usage", f"The state of a module is written as {SUFFIX}, not as {target.name}.", hint)


def handed_over(
    job: ModuleFold, done: Proven[FoldedModule], selection: Selection, target: Path | None
) -> FoldResult[nn.Module]:
    """What came of ``job``; the module's state is written to ``target``."""
    from normfold.models.module.save import Structure, save_state

    change = done.model.change
    source = done.model.graph.trace.module
    structure = Structure.between(source, done.model.module, change.removed, change.added)
    folded = job.handed_over(done)

    def write(path: Path) -> None:
        job.progress("writing")
        save_state(folded, structure, done.decisions, path)

    if target is not None:
        write(target)
    return FoldResult(
        folded,
        done.decisions,
        done.verification,
        change.removed,
        change.added,
        output=name_of(target),
        sizes=done.sizes,
        unmatched=selection.unmatched(decision.site for decision in done.decisions),
        write=write,
    )
