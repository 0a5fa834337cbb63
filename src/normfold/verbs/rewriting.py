"""What the verbs share that hand back a model which a pass has rewritten."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from normfold.errors import UsageError
from normfold.models import onnxfile
from normfold.models.source import name_of, onnx_source
from normfold.passes.fold.selection import Selection
from normfold.pipeline.fold_onnx import Request, fold_proven, fold_unproven
from normfold.pipeline.prove import prove, unproven
from normfold.proof.comparison import Setup
from normfold.runtime import CHECKER, Evaluator
from normfold.verbs.fold_result import FoldResult

if TYPE_CHECKING:
    from torch import nn

    from normfold.pipeline.fold_module import ModuleFold

NOT_ASKED_FOR = "not asked for"
DRY_RUN = "a dry run compares nothing"


def rewrite_file(model: object, request: Request, selection: Selection, asked: Setup, skipped: str) -> FoldResult[Any]:
    """``model`` rewritten as ``request`` says, and proven on inputs as ``asked``; ``skipped`` says why not."""
    progress, target = request.progress, request.target
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
    return FoldResult(
        source.like_source(done.model),
        done.decisions,
        done.verification,
        source=name_of(model),
        output=name_of(target.path),
        sizes=done.sizes,
        unmatched=selection.unmatched(decision.site for decision in done.decisions),
        cleaning=done.cleaning,
        write=lambda path: onnxfile.write(done.model, path, external=target.external_data, source=source.file),
    )


def rewrite_module(job: ModuleFold, selection: Selection, target: Path | None, skipped: str) -> FoldResult[nn.Module]:
    """The module of ``job`` rewritten and proven; ``skipped`` says why not. Its state is written to ``target``."""
    from normfold.models.module.save import SUFFIX, Structure, save_state

    if target is not None and target.suffix != SUFFIX:
        hint = "Write .onnx with normfold.export, and .pt2 with normfold.fold_program."
        raise UsageError("usage", f"The state of a module is written as {SUFFIX}, not as {target.name}.", hint)
    done = unproven(job, skipped) if skipped else prove(job)
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
