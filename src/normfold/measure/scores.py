"""What metrics know of each sample, given a model's outputs; and what is made of all samples together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from normfold.errors import UsageError
from normfold.models.named import words

Array = NDArray[Any]
Floats = NDArray[np.float64]
Outputs = Mapping[str, Array]
UserMetric = Callable[[Outputs, Array | None], Any]
Scores = Callable[[Outputs, Outputs, Array | None], Array]
"""Of the outputs of a model, those of the source, and the labels: a row for each sample."""
Share = Literal["f1", "precision", "recall"]
CODE: Final = "bad-metric"
BINS: Final = 15
"""Of the calibration error, of equal width."""


def top(k: int) -> Scores:
    """Whether the label is among the ``k`` highest outputs."""

    def scores(outputs: Outputs, _: Outputs, labels: Array | None) -> Array:
        logits, wanted = _classified(outputs, labels, f"top{k}")
        best = np.argsort(-logits, axis=1, kind="stable")[:, :k]
        return np.asarray((best == wanted[:, None]).any(axis=1), dtype=np.float64)

    return scores


def predicted(name: str) -> Scores:
    """Rows of the highest output and the label; ``name`` is the metric's."""

    def scores(outputs: Outputs, _: Outputs, labels: Array | None) -> Array:
        logits, wanted = _classified(outputs, labels, name)
        return np.stack([logits.argmax(axis=1), wanted], axis=1).astype(np.int64)

    return scores


def share(kind: Share, chosen: int | None) -> Callable[[Array], float]:
    """F1, precision or recall of the class ``chosen``, or the mean over the classes that are among the labels."""

    def reduce(rows: Array) -> float:
        given, true = rows[:, 0], rows[:, 1]
        size = int(rows.max()) + 1
        right = np.bincount(true[given == true], minlength=size).astype(np.float64)
        said, there = (np.bincount(column, minlength=size).astype(np.float64) for column in (given, true))
        of = {"precision": said, "recall": there, "f1": (said + there) / 2}[kind]
        found = np.where(of > 0, right / np.where(of > 0, of, 1.0), 0.0)
        if chosen is None:
            return float(found[there > 0].mean())
        return float(found[chosen]) if chosen < size else 0.0

    return reduce


def confidences(outputs: Outputs, _: Outputs, labels: Array | None) -> Array:
    """Rows of the highest probability, and whether it is that of the label."""
    logits, wanted = _classified(outputs, labels, "ece")
    sums = logits.sum(axis=1)
    if not ((logits >= 0).all() and np.allclose(sums, 1.0, atol=1e-3)):
        exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
        logits = exponents / exponents.sum(axis=1, keepdims=True)
    right = logits.argmax(axis=1) == wanted
    return np.stack([logits.max(axis=1), right.astype(np.float64)], axis=1)


def calibration_error(rows: Array) -> float:
    """The expected calibration error: |accuracy - confidence| over bins of confidence, weighted by their samples."""
    bins = np.minimum((rows[:, 0] * BINS).astype(np.int64), BINS - 1)
    gaps = np.bincount(bins, weights=rows[:, 1] - rows[:, 0], minlength=BINS)
    return float(np.abs(gaps).sum() / len(rows))


def squared_error(outputs: Outputs, reference: Outputs, labels: Array | None) -> Array:
    """The mean squared error to the labels, where there are some, and else to the source's outputs."""
    name = next(iter(outputs))
    wanted = labels if labels is not None else reference[name]
    found = outputs[name][: len(wanted)]
    if found.shape != wanted.shape:
        text = f"mse compares the output {name!r} of shape {found.shape} with labels of shape {wanted.shape}."
        raise UsageError(CODE, text)
    squared = (found.astype(np.float64) - wanted.astype(np.float64)) ** 2
    return np.asarray(squared.reshape(len(found), -1).mean(axis=1))


def cosine(outputs: Outputs, reference: Outputs, _: Array | None) -> Array:
    """The cosine between the first output and the source's."""
    name = next(iter(outputs))
    found, wanted = (side[name].astype(np.float64).reshape(len(side[name]), -1) for side in (outputs, reference))
    if found.shape != wanted.shape:
        raise UsageError(CODE, f"The outputs {name!r} have different shapes.")
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(wanted, axis=1)
    alike = np.where(lengths > 0, (found * wanted).sum(axis=1) / np.where(lengths > 0, lengths, 1.0), 0.0)
    # Two zero vectors point the same way.
    return np.asarray(np.where((found == wanted).all(axis=1), 1.0, alike))


def by_sample(function: UserMetric) -> Scores:
    """What a user's function says of each sample of a batch."""

    def scores(outputs: Outputs, _: Outputs, labels: Array | None) -> Array:
        found = _called(function, outputs, labels)
        if found.ndim > 1 or not np.isfinite(found).all():
            raise UsageError(CODE, "The metric has to return one finite number for each sample.")
        return np.atleast_1d(found)

    return scores


def samples(outputs: Outputs, _: Outputs, labels: Array | None) -> Array:
    """The outputs and the label of each sample, as one object a row."""
    count = len(next(iter(outputs.values())))
    if any(len(array) != count for array in outputs.values()):
        raise UsageError(CODE, "A metric over all samples needs outputs whose first axis counts samples.")
    rows = np.empty(count, dtype=object)
    for index in range(count):
        label = None if labels is None else labels[index]
        rows[index] = ({name: np.array(array[index]) for name, array in outputs.items()}, label)
    return rows


def over_all(function: UserMetric) -> Callable[[Array], float]:
    """What a user's function says of all samples at once."""

    def reduce(rows: Array) -> float:
        outputs = {name: np.stack([row[0][name] for row in rows]) for name in rows[0][0]}
        labels = None if rows[0][1] is None else np.stack([row[1] for row in rows])
        found = _called(function, outputs, labels)
        if found.size != 1 or not np.isfinite(found).all():
            raise UsageError(CODE, "A metric over all samples has to return one finite number.")
        return float(found.reshape(()))

    return reduce


def _called(function: UserMetric, outputs: Outputs, labels: Array | None) -> Floats:
    try:
        return np.asarray(function(outputs, labels), dtype=np.float64)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(CODE, f"The metric fails: {words(error)}") from error


def _classified(outputs: Outputs, labels: Array | None, name: str) -> tuple[Floats, Array]:
    """The outputs of each class and the labels, of as many samples."""
    if labels is None:
        hint = "Store them as 'label', one for each sample; for pictures, one folder for each class."
        raise UsageError(CODE, f"{name} needs labels, and the data have none.", hint)
    logits = next((one for one in outputs.values() if one.ndim == 2 and len(one) >= len(labels)), None)
    if logits is None or labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise UsageError(CODE, f"{name} needs an output [samples, classes], and one whole number as each label.")
    if labels.size and not 0 <= int(labels.min()) <= int(labels.max()) < logits.shape[1]:
        raise UsageError(CODE, f"A label is not below {logits.shape[1]}, the number of classes.")
    return np.nan_to_num(logits[: len(labels)].astype(np.float64), nan=-np.inf), labels
