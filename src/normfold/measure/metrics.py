"""How good a model is on labelled samples, and how much worse another one is on the same samples.

Both models see the same samples, so the difference is that of pairs, and its interval is far narrower than that of
two accuracies: most samples are right, or wrong, for both.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from normfold.errors import UsageError, suggestion
from normfold.measure.statistics import CONFIDENCE, Interval
from normfold.measure.student_t import t_quantile
from normfold.models.dataset import Batch
from normfold.models.named import named, words

Array = NDArray[Any]
Floats = NDArray[np.float64]
Outputs = Mapping[str, Array]
Better = Literal["higher", "lower"]
UserMetric = Callable[[Outputs, Array | None], Any]
REFERENCE: Final = re.compile(r"(?P<package>[^\W\d]\w*(?:\.[^\W\d]\w*)*):(?P<function>[^\W\d]\w*(?:\.[^\W\d]\w*)*)")
CODE: Final = "bad-metric"


@dataclass(frozen=True, slots=True)
class Metric:
    """A score for every sample.

    ``scores(outputs, reference, labels)`` takes the outputs of a model, those of the source, and the labels. Means are
    in ``unit`` after multiplication by ``factor``.
    """

    name: str
    scores: Callable[[Outputs, Outputs, Array | None], Floats]
    better: Better = "higher"
    unit: str = ""
    factor: float = 1.0
    binary: bool = False
    given: bool = False
    """By the user, who may have forgotten that there is to be a score for each sample."""


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
            "interval": [self.difference.low, self.difference.high],
            "drop": self.drop,
            "samples": self.samples,
            "unit": self.unit,
        }


@dataclass(slots=True)
class Evaluation:
    """Collects the scores of two models, batch by batch."""

    metric: Metric
    _before: list[Floats] = field(default_factory=list)
    _after: list[Floats] = field(default_factory=list)

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
            scores = self.metric.scores(outputs, source, batch.labels)
            if self.metric.given and len(scores) != batch.count:
                said = f"{self.metric.name} returns {len(scores)} scores for a batch of {batch.count} samples."
                raise UsageError(CODE, said, "A metric returns one finite number for each sample.")
            kept.append(scores)

    def score(self) -> Score:
        """What they come to."""
        before, after = np.concatenate(self._before), np.concatenate(self._after)
        factor = self.metric.factor
        paired = _paired_binary if self.metric.binary else _paired
        found = paired(before, after)
        difference = Interval(found.value * factor, found.low * factor, found.high * factor)
        return Score(
            self.metric.name,
            float(before.mean()) * factor,
            float(after.mean()) * factor,
            difference,
            len(before),
            self.metric.better,
            self.metric.unit,
        )


def metric(given: str | UserMetric) -> Metric:
    """The metric that ``given`` names: top1, top5, mse, cosine, ``module:function``, or a function.

    A function takes the outputs by name and the labels of a batch, and returns one score for each sample, the higher
    the better. ``mse`` compares with the labels, where there are some, and else with the source's outputs; ``cosine``
    always with these.

    Raises:
        UsageError: ``bad-metric``: there is no such metric.
    """
    if not isinstance(given, str):
        return Metric(getattr(given, "__name__", "function"), _user(given), given=True)
    if given in METRICS:
        return METRICS[given]
    reference = REFERENCE.fullmatch(given)
    if reference is None:
        hint = suggestion(given, METRICS) or f"One of {', '.join(METRICS)}, or module:function."
        raise UsageError(CODE, f"There is no metric {given!r}.", hint)
    function = named(reference["package"], reference["function"], CODE)
    if not callable(function):
        raise UsageError(CODE, f"{given} is an object of type {type(function).__name__}, not a function.")
    return Metric(given, _user(function), given=True)


def _top(k: int) -> Callable[[Outputs, Outputs, Array | None], Floats]:
    def scores(outputs: Outputs, _: Outputs, labels: Array | None) -> Floats:
        if labels is None:
            hint = "Store them as 'label', one for each sample; for pictures, one folder for each class."
            raise UsageError(CODE, f"top{k} needs labels, and the data have none.", hint)
        logits = next((one for one in outputs.values() if one.ndim == 2 and len(one) >= len(labels)), None)
        if logits is None or labels.ndim != 1 or labels.dtype.kind not in "iu":
            raise UsageError(CODE, f"top{k} needs an output [samples, classes], and one whole number as each label.")
        if labels.size and not 0 <= int(labels.min()) <= int(labels.max()) < logits.shape[1]:
            raise UsageError(CODE, f"A label is not below {logits.shape[1]}, the number of classes.")
        logits = np.nan_to_num(logits[: len(labels)].astype(np.float64), nan=-np.inf)
        best = np.argsort(-logits, axis=1, kind="stable")[:, :k]
        return np.asarray((best == labels[:, None]).any(axis=1), dtype=np.float64)

    return scores


def _mse(outputs: Outputs, reference: Outputs, labels: Array | None) -> Floats:
    name = next(iter(outputs))
    wanted = labels if labels is not None else reference[name]
    found = outputs[name][: len(wanted)]
    if found.shape != wanted.shape:
        text = f"mse compares the output {name!r} of shape {found.shape} with labels of shape {wanted.shape}."
        raise UsageError(CODE, text)
    squared = (found.astype(np.float64) - wanted.astype(np.float64)) ** 2
    return np.asarray(squared.reshape(len(found), -1).mean(axis=1))


def _cosine(outputs: Outputs, reference: Outputs, _: Array | None) -> Floats:
    name = next(iter(outputs))
    found, wanted = (side[name].astype(np.float64).reshape(len(side[name]), -1) for side in (outputs, reference))
    if found.shape != wanted.shape:
        raise UsageError(CODE, f"The outputs {name!r} have different shapes.")
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(wanted, axis=1)
    alike = np.where(lengths > 0, (found * wanted).sum(axis=1) / np.where(lengths > 0, lengths, 1.0), 0.0)
    # Two zero vectors point the same way.
    return np.asarray(np.where((found == wanted).all(axis=1), 1.0, alike))


def _user(function: UserMetric) -> Callable[[Outputs, Outputs, Array | None], Floats]:
    def scores(outputs: Outputs, _: Outputs, labels: Array | None) -> Floats:
        try:
            found = np.asarray(function(outputs, labels), dtype=np.float64)
        except UsageError:
            raise
        except Exception as error:
            raise UsageError(CODE, f"The metric fails: {words(error)}") from error
        if found.ndim > 1 or not np.isfinite(found).all():
            raise UsageError(CODE, "The metric has to return one finite number for each sample.")
        return np.atleast_1d(found)

    return scores


METRICS: Final[dict[str, Metric]] = {
    "top1": Metric("top1", _top(1), unit="points", factor=100.0, binary=True),
    "top5": Metric("top5", _top(5), unit="points", factor=100.0, binary=True),
    "mse": Metric("mse", _mse, better="lower"),
    "cosine": Metric("cosine", _cosine),
}


def _paired(before: Floats, after: Floats) -> Interval:
    """Interval of the mean difference of pairs, by Student's t."""
    differences = after - before
    count, value = len(differences), float(differences.mean())
    if count < 2:
        return Interval(value, -math.inf, math.inf)
    half = t_quantile((1 + CONFIDENCE) / 2, count - 1) * float(differences.std(ddof=1)) / math.sqrt(count)
    return Interval(value, value - half, value + half)


def _paired_binary(before: Floats, after: Floats) -> Interval:
    """Interval of a difference of paired proportions (Agresti and Min, 2005).

    Half a pair is added to each of the four cells: where no sample changed, the interval still has a width.
    """
    count = len(before)
    value = float(after.mean() - before.mean())
    gained, lost = float((after > before).sum()) + 0.5, float((after < before).sum()) + 0.5
    total = count + 2.0
    middle = (gained - lost) / total
    half = t_quantile((1 + CONFIDENCE) / 2, count) * math.sqrt(gained + lost - (gained - lost) ** 2 / total) / total
    return Interval(value, min(value, middle - half), max(value, middle + half))
