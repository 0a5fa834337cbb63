"""Conversions of modules that are fitted to data: the data are opened, and the result judged by them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normfold.errors import UsageError
from normfold.measure.metrics import UserMetric, metric
from normfold.models.dataset import Dataset, read_dataset
from normfold.passes.convert import Asked, Kind
from normfold.passes.convert.calibrated.fitting import Fitting
from normfold.passes.convert.run import Converter
from normfold.pipeline.prove import Proven, unproven
from normfold.verbs.fold_result import FoldResult
from normfold.verbs.rewriting import DRY_RUN, NOT_ASKED_FOR, Job, check_target, handed_over

if TYPE_CHECKING:
    from torch import nn

    from normfold.passes.fold.module import FoldedModule
    from normfold.pipeline.calibrate_module import CalibratedModule, Calibration, Inputs


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrating:
    """What a user says about fitting and judging: see `normfold.convert`."""

    calibrate: object = None
    evaluate: object = None
    metric: str | UserMetric = "top1"
    max_drop: float = 1.0
    max_offset: float = 1.0
    distill: float = 0.0

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

    def refuse_data(self) -> None:
        """Raise `UsageError` where data were given for a conversion that is not fitted."""
        if self.calibrate is not None or self.evaluate is not None:
            raise UsageError("usage", "calibrate and evaluate are for PyTorch modules, whose norms can be fitted.")

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
        target = None if job.output is None or job.dry_run else Path(job.output)
        check_target(target)
        own = Example.of(example)
        inputs = Inputs.of(module, own)
        calibration, data = self._opened(inputs)
        observer = None if data is None else ModuleObserver(inputs, data)
        fitting = Fitting(observer, self.max_offset, allowed=True, seed=job.seed)
        converter = Converter(replace(asked, fitting=fitting), job.selection, source)
        fold = ModuleFold(module, own, converter.convert, job.seed, job.progress)
        with untouched(), fold.whole():
            calibrated = CalibratedModule(fold, calibration)
            done = _done(calibrated, job)
            result = handed_over(fold, done, job.selection, target)
        return replace(result, score=calibrated.score, drift=calibrated.drift)

    def _opened(self, inputs: Inputs) -> tuple[Calibration, Dataset | None]:
        """What to go by, and all calibration samples."""
        from normfold.pipeline.calibrate_module import Calibration, split

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
    from normfold.pipeline.calibrate_module import within

    if job.dry_run or not job.verify:
        return unproven(calibrated, DRY_RUN if job.dry_run else NOT_ASKED_FOR)
    return within(calibrated)
