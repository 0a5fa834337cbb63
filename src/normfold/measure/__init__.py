"""Latency figures one can trust (docs/benchmarking.md has the method).

`normfold.bench` and `normfold.compare` are the way in for users. Programs that need more control build a `Task` and
call `measure`::

    from normfold.benchmark import Conditions, Effort, SessionProfile, Task, contender, measure

    with contender("model.onnx") as model:
        tuned = replace(model, name="no SLN", profile=SessionProfile(disabled_optimizers=("SkipLayerNormFusion",)))
        cell = measure(Task((model, tuned), Conditions(threads=1), Effort(details=False)))
    if cell.refused:  # a NormfoldError with its code; then there are no figures
        raise cell.refused
    cell.figure("model").latency.value  # nanoseconds, with .low and .high
    cell.comparisons["no SLN"].ratio.value  # its time over the first contender's; .found, .verdict, .floor

Contenders of one task are opened in the same processes and timed in turns; they may differ in model, in session
settings, or both. `session_profile` reads and writes settings as files.
"""

from __future__ import annotations

from normfold.measure.contender import CONTROL, Conditions, Contender, Effort, contender
from normfold.measure.figures import Cell, Details, Figure, Sample
from normfold.measure.measure import measure
from normfold.measure.session_profile import PROVIDERS, SessionProfile
from normfold.measure.statistics import Comparison, Interval, Quantile
from normfold.measure.task import Task

__all__ = [
    "CONTROL",
    "PROVIDERS",
    "Cell",
    "Comparison",
    "Conditions",
    "Contender",
    "Details",
    "Effort",
    "Figure",
    "Interval",
    "Quantile",
    "Sample",
    "SessionProfile",
    "Task",
    "contender",
    "measure",
]
