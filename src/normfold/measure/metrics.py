"""How good a model is on samples, and how much worse another one is on the same samples.

Both models see the same samples, so the difference is that of pairs, and its interval is far narrower than that of
two accuracies: most samples are right, or wrong, for both.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from normfold.errors import UsageError, suggestion
from normfold.measure import scores
from normfold.measure.paired import by_bootstrap, by_proportions, by_t
from normfold.measure.scores import CODE, Outputs, Share, UserMetric
from normfold.measure.statistics import Interval
from normfold.models.dataset import Batch
from normfold.models.named import named

Array = NDArray[Any]
Better = Literal["higher", "lower"]
Method = Literal["t", "proportions", "bootstrap"]
"""How the interval of a difference is found: Student's t, paired proportions, or resampled pairs."""
REFERENCE: Final = re.compile(r"(?P<package>[^\W\d]\w*(?:\.[^\W\d]\w*)*):(?P<function>[^\W\d]\w*(?:\.[^\W\d]\w*)*)")
ALL: Final = "all:"
"""Before the name of a function that sees all samples at once."""
OF_CLASS: Final = re.compile(r"(?P<share>f1|precision|recall)(?::(?P<index>\d+))?")
RESAMPLES: Final = 2000
USERS_RESAMPLES: Final = 200
"""Of a user's function, which may be slow."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A measure of a model, given its outputs on samples.

    ``scores(outputs, reference, labels)`` takes the outputs of a model, those of the source, and the labels, and makes
    a row for each sample; ``reduce`` makes a number of all rows, by default their mean. It is in ``unit`` after
    multiplication by ``factor``.
    """

    name: str
    scores: scores.Scores
    better: Better = "higher"
    unit: str = ""
    factor: float = 1.0
    method: Method = "t"
    reduce: Callable[[Array], float] | None = None
    resamples: int = RESAMPLES
    labelled: bool = False
    """Whether it needs labels."""
    given: bool = False
    """By the user, who may have forgotten that there is to be a score for each sample."""

    def of(self, rows: Array) -> float:
        """The number, before it is multiplied."""
        return float(rows.mean()) if self.reduce is None else self.reduce(rows)

    def difference(self, before: Array, after: Array) -> Interval:
        """Of what the rows after come to, less those before, and its interval."""
        if self.reduce is not None:
            found = by_bootstrap(before, after, self.reduce, self.resamples)
        else:
            found = (by_proportions if self.method == "proportions" else by_t)(before, after)
        return Interval(found.value * self.factor, found.low * self.factor, found.high * self.factor)


@dataclass(frozen=True, slots=True)
class Score:
    """A metric of two models on the same samples.

    ``difference`` is ``after - before`` with its interval; ``drop`` is how much worse the second one is, in ``unit``.
    """

    metric: str
    before: float
    after: float
    difference: Interval
    samples: int
    better: Better
    unit: str
    method: Method = "t"

    @property
    def drop(self) -> float:
        """How much worse, in the metric's unit; below zero where it is better."""
        return self.before - self.after if self.better == "higher" else self.after - self.before

    @property
    def worst(self) -> float:
        """The end of the interval at which it is worst, as a drop."""
        return -self.difference.low if self.better == "higher" else self.difference.high

    def document(self) -> dict[str, Any]:
        """The JSON of it."""
        return {
            "metric": self.metric,
            "before": self.before,
            "after": self.after,
            "difference": self.difference.value,
            "interval": [_finite(self.difference.low), _finite(self.difference.high)],
            "drop": self.drop,
            "samples": self.samples,
            "unit": self.unit,
            "method": self.method,
        }


@dataclass(slots=True)
class Evaluation:
    """Collects what a metric knows of the samples of two models, batch by batch."""

    metric: Metric
    _before: list[Array] = field(default_factory=list)
    _after: list[Array] = field(default_factory=list)

    def add(self, source: Outputs, result: Outputs, batch: Batch) -> None:
        """The outputs of both on ``batch``, by name.

        Raises:
            UsageError: ``bad-metric``: it cannot be computed from them.
        """
        source, result = (
            {name: array[: batch.count] if array.ndim else array for name, array in side.items()}
            for side in (source, result)
        )
        for kept, outputs in ((self._before, source), (self._after, result)):
            rows = self.metric.scores(outputs, source, batch.labels)
            if self.metric.given and len(rows) != batch.count:
                said = f"{self.metric.name} returns {len(rows)} scores for a batch of {batch.count} samples."
                hint = "A metric returns one finite number for each sample; all:module:function sees all samples."
                raise UsageError(CODE, said, hint)
            kept.append(rows)

    def score(self) -> Score:
        """What they come to.

        Raises:
            UsageError: ``bad-metric``: a function that sees all samples fails.
        """
        before, after = np.concatenate(self._before), np.concatenate(self._after)
        return Score(
            self.metric.name,
            self.metric.of(before) * self.metric.factor,
            self.metric.of(after) * self.metric.factor,
            self.metric.difference(before, after),
            len(before),
            self.metric.better,
            self.metric.unit,
            self.metric.method,
        )


def metric(given: str | UserMetric) -> Metric:
    """The metric that ``given`` names, or a function.

    ``top1``, ``top5``, ``f1``, ``precision`` and ``recall`` (the mean over classes, or of one: ``f1:3``) and ``ece``,
    the expected calibration error, need labels. ``mse`` compares with the labels, where there are some, and else with
    the source's outputs; ``cosine`` always with these. ``module:function`` and a function take the outputs by name and
    the labels of a batch, and return one score for each sample, the higher the better; ``all:module:function`` takes
    those of all samples and returns one number, such as a mean average precision.

    Raises:
        UsageError: ``bad-metric``: there is no such metric.
    """
    if not isinstance(given, str):
        return Metric(getattr(given, "__name__", "function"), scores.by_sample(given), given=True)
    if given in METRICS:
        return METRICS[given]
    of_class = OF_CLASS.fullmatch(given)
    if of_class is not None:
        kind = next(one for one in get_args(Share) if one == of_class["share"])
        return _share(kind, int(of_class["index"]))
    if given.startswith(ALL):
        reduce = scores.over_all(_function(given.removeprefix(ALL)))
        return Metric(given, scores.samples, method="bootstrap", reduce=reduce, resamples=USERS_RESAMPLES)
    return Metric(given, scores.by_sample(_function(given)), given=True)


def _function(given: str) -> UserMetric:
    """The function ``module:function``."""
    reference = REFERENCE.fullmatch(given)
    if reference is None:
        hint = suggestion(given, METRICS) or f"One of {', '.join(METRICS)}, f1:CLASS, module:function or all:module:..."
        raise UsageError(CODE, f"There is no metric {given!r}.", hint)
    function = named(reference["package"], reference["function"], CODE)
    if not callable(function):
        raise UsageError(CODE, f"{given} is an object of type {type(function).__name__}, not a function.")
    found: UserMetric = function
    return found


def _share(kind: Share, chosen: int | None) -> Metric:
    name = kind if chosen is None else f"{kind}:{chosen}"
    reduce = scores.share(kind, chosen)
    return Metric(
        name, scores.predicted(name), unit="points", factor=100.0, method="bootstrap", reduce=reduce, labelled=True
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


METRICS: Final[dict[str, Metric]] = {
    "top1": Metric("top1", scores.top(1), unit="points", factor=100.0, method="proportions", labelled=True),
    "top5": Metric("top5", scores.top(5), unit="points", factor=100.0, method="proportions", labelled=True),
    "f1": _share("f1", None),
    "precision": _share("precision", None),
    "recall": _share("recall", None),
    "ece": Metric(
        "ece",
        scores.confidences,
        better="lower",
        unit="points",
        factor=100.0,
        method="bootstrap",
        reduce=scores.calibration_error,
        labelled=True,
    ),
    "mse": Metric("mse", scores.squared_error, better="lower"),
    "cosine": Metric("cosine", scores.cosine),
}
