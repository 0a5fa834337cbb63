"""Latency figures one can trust (docs/benchmarking.md has the method).

`normfold.bench` and `normfold.compare` are the way in for users. Programs that need more control build an `Experiment`
and call `measure`::

    from normfold.measure import Conditions, Effort, Experiment, SessionProfile, measure, open_candidate

    with open_candidate("model.onnx") as model:
        tuned = replace(model, name="no SLN", profile=SessionProfile(disabled_optimizers=("SkipLayerNormFusion",)))
        cell = measure(Experiment((model, tuned), Conditions(threads=1), Effort(details=False)))
    if cell.refused:  # a NormfoldError with its code; then there are no figures
        raise cell.refused
    cell.figure("model").latency.value  # nanoseconds, with .low and .high
    cell.comparisons["no SLN"].ratio.value  # its time over the first candidate's; .found, .verdict, .floor

Candidates of one experiment are opened in the same processes and timed in turns; they may differ in model, in session
settings, or both.
"""

from __future__ import annotations

from normfold.measure.candidate import CONTROL, Candidate, Conditions, Effort, open_candidate
from normfold.measure.experiment import Experiment
from normfold.measure.figures import Cell, Details, Figure, Sample
from normfold.measure.run import measure
from normfold.measure.statistics import Comparison, Interval, Quantile
from normfold.runtime.session_profile import SessionProfile

__all__ = [
    "CONTROL",
    "Candidate",
    "Cell",
    "Comparison",
    "Conditions",
    "Details",
    "Effort",
    "Experiment",
    "Figure",
    "Interval",
    "Quantile",
    "Sample",
    "SessionProfile",
    "measure",
    "open_candidate",
]
