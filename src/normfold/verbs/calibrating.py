"""Conversions of modules that are fitted to data: the data are opened, and the result judged by them."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normfold.errors import UsageError
from normfold.measure.metrics import metric
from normfold.measure.scores import UserMetric
from normfold.models.data import user_inputs
from normfold.models.dataset import Dataset, read_dataset
from normfold.models.source import onnx_source
from normfold.passes.convert import Asked, Kind
from normfold.passes.convert.calibrated.fitting import Fitting
from normfold.passes.convert.run import Converter
from normfold.pipeline.calibrate_onnx import CalibratedFile, FileObserver, Judging, opened
from normfold.pipeline.fold_onnx import FileFold, Request, Target
from normfold.pipeline.judged import split, within
from normfold.pipeline.prove import Proven, prove, unproven
from normfold.proof.comparison import Setup
from normfold.proof.probes import input_specs
from normfold.runtime import CHECKER
from normfold.verbs.fold_result import FoldResult
from normfold.verbs.reestimating import reestimated
from normfold.verbs.rewriting import DRY_RUN, NOT_ASKED_FOR, Job, check_target, file_result, handed_over

if TYPE_CHECKING:
    import onnx_ir
    from torch import nn

    from normfold.passes.fold.module import FoldedModule
    from normfold.pipeline.calibrate_module import CalibratedModule, Calibration, Inputs
    from normfold.runtime import Evaluator


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrating:
    """What a user says about fitting and judging: see `normfold.convert`."""

    calibrate: object = None
    evaluate: object = None
    metric: str | UserMetric = "top1"
    max_drop: float = 1.0
    max_offset: float = 1.0
    distill: float = 0.0
    reestimate: bool = False

    def checked(self) -> Calibrating:
        """Itself.

        Raises:
            UsageError: ``usage`` where something is out of range, or needs data that are not there.
        """
        for name in ("max_drop", "max_offset", "distill"):
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise UsageError("usage", f"{name} is {getattr(self, name)!r}; it has to be zero or more.")
        if self.distill and self.calibrate is None:
            raise UsageError("usage", "There are no inputs to distil on.", "Name some with --calibrate.")
        return self

    def run(
        self, job: Job, asked: Asked, source: Kind | None, module: nn.Module, example: Any
    ) -> FoldResult[nn.Module]:
        """``module`` converted as ``asked``, fitted to the data, and judged by them."""
        from normfold.models.module.example import Example
        from normfold.models.module.untouched import untouched
        from normfold.pipeline.calibrate_module import CalibratedModule, Inputs, ModuleObserver
        from normfold.pipeline.fold_module import ModuleFold

        if job.in_place:
            raise UsageError("usage", "A conversion that is fitted to data is not done in place.")
        job.refuse_file_options()
        target = None if job.output is None or job.dry_run else Path(job.output)
        check_target(target)
        own = Example.of(example)
        inputs = Inputs.of(module, own)
        calibration, data = self._opened(inputs)
        if self.reestimate:
            if asked.target != "batch":
                raise UsageError("usage", f"Statistics are computed anew for 'batch', and not for {asked.target!r}.")
            whole = replace(calibration, fitting_data=data)
            return reestimated(module, inputs, whole, job.selection, target)
        observer = None if data is None else ModuleObserver(inputs, data)
        fitting = Fitting(observer, self.max_offset, allowed=True, seed=job.seed)
        converter = Converter(replace(asked, fitting=fitting), job.selection, source)
        fold = ModuleFold(module, own, converter.convert, job.seed, job.progress)
        with untouched(), fold.whole():
            calibrated = CalibratedModule(fold, calibration)
            done = _done(calibrated, job)
            result = handed_over(fold, done, job.selection, target)
        return replace(result, score=calibrated.score, drift=calibrated.drift)

    def run_file(self, job: Job, asked: Asked, source: Kind | None, model: object) -> FoldResult[Any]:
        """The ONNX ``model`` converted as ``asked``, fitted to the data, and judged by them.

        Raises:
            UsageError: ``usage`` where an option is for modules.
        """
        if self.distill or self.reestimate:
            raise UsageError("usage", "Only PyTorch modules can be distilled, or get statistics anew.")
        CHECKER.start()
        with ExitStack() as stack:
            opened_source = onnx_source(model)
            evaluator = opened(stack, opened_source)
            takes = input_specs(opened_source.fresh())
            judging = Judging(max_drop=self.max_drop)
            if self.evaluate is not None:
                judging = replace(judging, evaluation=read_dataset(self.evaluate, takes), metric=metric(self.metric))
            data = None if self.calibrate is None else read_dataset(self.calibrate, takes)
            if data is not None:
                judging = replace(judging, held_out=split(data)[1])
            observer = None if data is None else FileObserver(evaluator, opened_source, data)
            fitting = Fitting(observer, self.max_offset, allowed=True, seed=job.seed)
            work = Converter(replace(asked, fitting=fitting), job.selection, source).convert
            target = Target(
                None if job.output is None or job.dry_run else Path(job.output), job.external_data, job.in_place
            )
            request = Request(work, target=target, progress=job.progress, newest=job.opset)
            fold = stack.enter_context(FileFold(opened_source, request))
            calibrated = CalibratedFile(fold, evaluator, opened_source, request, judging)
            if job.dry_run or not job.verify:
                done = unproven(calibrated, DRY_RUN if job.dry_run else NOT_ASKED_FOR)
            else:
                done = within(calibrated, lambda: _exact(fold, evaluator, job))
            fold.write(done.model)
            result = file_result(opened_source, done, model, request, job.selection)
        return replace(result, score=calibrated.score, drift=calibrated.drift)

    def _opened(self, inputs: Inputs) -> tuple[Calibration, Dataset | None]:
        """What to go by, and all calibration samples."""
        from normfold.pipeline.calibrate_module import Calibration

        calibration = Calibration(inputs, max_drop=self.max_drop, distill=self.distill)
        takes = inputs.takes()
        if self.evaluate is not None:
            opened = read_dataset(self.evaluate, takes)
            calibration = replace(calibration, evaluation=opened, metric=metric(self.metric))
        if self.calibrate is None:
            return calibration, None
        data = read_dataset(self.calibrate, takes)
        fitting, held_out = split(data)
        return replace(calibration, fitting_data=fitting, held_out=held_out), data


def _done(calibrated: CalibratedModule, job: Job) -> Proven[FoldedModule]:
    if job.dry_run or not job.verify:
        return unproven(calibrated, DRY_RUN if job.dry_run else NOT_ASKED_FOR)
    return within(calibrated, lambda: prove(calibrated.fold))


def _exact(fold: FileFold, evaluator: Evaluator, job: Job) -> Proven[onnx_ir.Model]:
    """The proof of a result none of whose norms was fitted."""
    asked = Setup((), user_inputs(job.shapes, job.inputs), seed=job.seed, custom_ops=job.custom_ops)
    fold.begin(evaluator, asked)
    return prove(fold)
