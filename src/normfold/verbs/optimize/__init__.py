"""The verb `optimize`: everything that the other verbs do, for one model, and the best result of them handed over.

A stage's result is kept only where it is proven and not slower than the source, by `bench`'s verdict; each is kept in a
folder named by what it depends on, so that a run that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from normfold.errors import EnvironmentUnavailableError, OutputError, UsageError
from normfold.limits import limited
from normfold.measure.candidate import Effort
from normfold.measure.scores import UserMetric
from normfold.models.data import Arrays, Shapes
from normfold.models.source import File
from normfold.passes.quantize.figures import Width
from normfold.pipeline.fold_onnx import External
from normfold.pipeline.stages import Workshop
from normfold.records import Progress, silent
from normfold.runtime import CHECKER
from normfold.runtime.session_profile import Use
from normfold.verbs.optimize import files
from normfold.verbs.optimize.found import machine, outcome, planned
from normfold.verbs.optimize.job import Job
from normfold.verbs.optimize.request import Request, data_digests, request
from normfold.verbs.optimize.result import OptimizeResult
from normfold.verbs.optimize.source import Call, Origin, origin

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram

    from normfold.models.source import OnnxModel

EFFORT: Final = Effort(half_width=0.01, most=8, copies=1, time_limit=300.0)
"""Less than `bench` makes of it: it decides between a few models, and takes a minute for a small one."""
SECONDS: Final = 900.0
"""Time limit where none is given."""


def optimize(
    model: OnnxModel | nn.Module | ExportedProgram,
    example_inputs: Any = None,
    *,
    output: File | None = None,
    calibrate: Any = None,
    evaluate: Any = None,
    metric: str | UserMetric | None = None,
    max_drop: float | None = None,
    shift: Sequence[str] = (),
    max_latency: float | str | None = None,
    width: Width | None = None,
    ep: str = "cpu",
    target: str = "local",
    use: Use = "server",
    threads: int | None = None,
    batch: int | None = None,
    shapes: Shapes | None = None,
    inputs: Arrays | File | None = None,
    dynamic: Mapping[str, Mapping[int, str]] | None = None,
    input_names: Sequence[str] | None = None,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    seed: int = 0,
    custom_ops: Sequence[str] = (),
    external_data: External = "auto",
    without: Sequence[str] = (),
    dry_run: bool = False,
    force: bool = False,
    effort: Effort = EFFORT,
    time_limit: float | None = None,
    memory_limit: int | None = None,
    progress: Progress = silent,
) -> OptimizeResult:
    """Fold, convert, quantise and tune ``model``, and hand over what is fastest of what is proven and accurate enough.

    The result is never slower than its source by `bench`'s verdict, and never loses more accuracy than ``max_drop``.
    Where no stage brings anything, it is the source as it came.

    Args:
        model: a path (ONNX, or ``.pt2``), a ``ModelProto``, an ``onnx_ir.Model``, an ``nn.Module`` or an
            ``ExportedProgram``; left as it is. A ``.pt2`` file is loaded by PyTorch: name only files that you trust.
        example_inputs: what an ``nn.Module`` is exported with.
        output: the folder for ``model.onnx``, the reports and, in ``.normfold``, the stages.
        calibrate: data to choose scales on; see docs/quantize.md for what data can be.
        evaluate: data to measure the accuracy on; without them nothing is quantised.
        metric: "top1" (the default) or another measure that docs/quantize.md lists.
        max_drop: largest loss of the metric, in its own unit; by default 0.2 points of top1 and top5, 0.01 of cosine.
        shift: "noise", "blur", "contrast": how to shift the evaluation data, to say what the result loses on those.
        max_latency: "3ms", "0.5x" or a number of seconds; where the result takes longer, nothing is written.
        width: what to quantise to; by default int8 on a CPU, else fp16.
        ep: execution provider that the result is for.
        target: where it is timed: "local", or one of those that `normfold.env` lists.
        use: "server" keeps threads spinning between operations, "edge" lets them sleep.
        threads: threads within an operation; by default one for each core.
        batch: size of the inputs' free first dimension while timing.
        shapes: by input name, for inputs with dynamic dimensions; ONNX only.
        inputs: arrays by input name to compare and time on, or the path of an ``.npz`` file of them.
        dynamic: dynamic axes of a module, as for `export`.
        input_names: names of a module's inputs, as for `export`.
        only: glob patterns; norms whose site matches none of them are kept.
        skip: glob patterns; norms whose site matches one of them are kept.
        seed: for random inputs and the order of blocks.
        custom_ops: libraries of custom operators, loaded to run the model.
        external_data: whether the result's weights go into a file of their own.
        without: stages to leave out: convert, quantize, tune.
        dry_run: say what would be done, and do nothing.
        force: write also a result that misses ``max_latency``.
        effort: how long to time.
        time_limit: seconds for the whole call; by default 15 minutes. Stages that there is no time for are left out.
        memory_limit: bytes that each process may take; by default what model and inputs of their size need.
        progress: called with what is being done.

    Raises:
        NormfoldError: the model or the data cannot be used, with the code.
    """
    with limited(time_limit, memory_limit, SECONDS), ExitStack() as stack:
        asked = request(
            metric_name=metric,
            max_latency=max_latency,
            width=width,
            threads=threads,
            without=without,
            calibrate=calibrate,
            evaluate=evaluate,
            max_drop=max_drop,
            shift=tuple(shift),
            ep=ep,
            target=target,
            use=use,
            batch=batch,
            shapes=shapes,
            inputs=inputs,
            only=tuple(only),
            skip=tuple(skip),
            seed=seed,
            custom_ops=tuple(custom_ops),
            external_data=external_data,
            force=force,
            effort=effort,
        )
        if output is None and not dry_run:
            raise UsageError("usage", "No output folder given.", "Add -o DIR, or --dry-run.")
        CHECKER.start()
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="normfold-"))) if dry_run else None
        target_folder = folder or Path(str(output))
        _check_output(model, target_folder)
        workshop = stack.enter_context(Workshop.opened(target_folder))
        names = None if input_names is None else tuple(input_names)
        progress("reading")
        found = origin(model, Call(example_inputs, dynamic, names, seed), workshop, progress)
        job = Job(asked, workshop, found.file, found.sha256, data_digests(asked, found.file), machine(), progress)
        if dry_run:
            return OptimizeResult(planned(job, found))
        try:
            return _done(job, found, target_folder)
        except EnvironmentUnavailableError as error:
            if error.code != "timed-out":
                raise
            hint = "What was done is kept: the same command goes on there. --time-limit allows more."
            raise EnvironmentUnavailableError(error.code, error.message, hint) from error


def _done(job: Job, found: Origin, folder: Path) -> OptimizeResult:
    document, model = outcome(job, found)
    if document["refused"] is None or job.request.force:
        files.write(document, model, job, folder)
    return OptimizeResult(document)


def _check_output(model: object, folder: Path) -> None:
    """Raise `OutputError` ``output-is-input`` where the result would take the place of ``model``."""
    target = folder / files.MODEL
    if isinstance(model, str | os.PathLike) and target.exists() and Path(model).exists() and target.samefile(model):
        raise OutputError("output-is-input", f"{target} would be overwritten.", "Choose another folder.")


__all__ = ["OptimizeResult", "Request", "optimize"]
