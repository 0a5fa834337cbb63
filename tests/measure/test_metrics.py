"""Scores of two models on the same samples."""

from dataclasses import replace

import numpy as np
import pytest

from normfold.errors import UsageError
from normfold.measure.metrics import Evaluation, metric
from normfold.models.dataset import Batch

EYE = np.eye(4)
RESAMPLES = 200
"""Fewer than are used: enough for tests."""


def score(name, before, after, labels=None):
    evaluation = Evaluation(replace(metric(name), resamples=RESAMPLES))
    before, after = np.asarray(before, float), np.asarray(after, float)
    for rows in np.array_split(np.arange(len(before)), 2):
        part = None if labels is None else np.asarray(labels)[rows]
        evaluation.add({"y": before[rows]}, {"y": after[rows]}, Batch({}, part, len(rows)))
    return evaluation.score()


def test_top1_counts_the_samples_that_are_right():
    found = score("top1", EYE, EYE[[1, 1, 2, 3]], [0, 1, 2, 3])
    assert (found.before, found.after, found.drop, found.samples, found.unit) == (100.0, 75.0, 25.0, 4, "points")
    assert found.difference.low < -25.0 < 0.0 < found.difference.high
    assert found.worst > found.drop


def test_top5_looks_at_five():
    logits = np.tile(np.arange(10.0), (4, 1))
    assert score("top5", logits, logits, [9, 5, 4, 0]).before == 50.0


def test_not_a_number_is_never_right():
    assert score("top1", EYE, np.full((4, 4), np.nan), [1, 1, 1, 1]).after == 0.0


def test_no_change_still_has_an_interval():
    """With 100 samples and no difference, one of 2 points cannot be ruled out; with 5,000 one of 0.1 can."""
    logits = np.tile(EYE, (1250, 1))
    labels = np.tile(np.arange(4), 1250)
    few, many = score("top1", logits[:100], logits[:100], labels[:100]), score("top1", logits, logits, labels)
    assert few.difference.low < -1.0
    assert -0.1 < many.difference.low < 0.0 < many.difference.high < 0.1


def test_the_interval_of_a_difference_covers_it():
    """Paired proportions of known truth: the 95 % interval misses it in about 5 % of 400 draws."""
    rng = np.random.default_rng(1)
    misses = 0
    for _ in range(400):
        right = rng.random(500) < 0.8
        other = np.where(rng.random(500) < 0.05, ~right, right)
        # Of the 80 % that are right 5 % turn wrong, of the 20 % wrong 5 % right: a difference of -3 points.
        rows = [np.where(side[:, None], EYE[0], EYE[1]) for side in (right, other)]
        found = score("top1", *rows, np.zeros(500, int)).difference
        misses += not found.low <= -3.0 <= found.high
    assert 5 <= misses <= 40


def test_mse_compares_with_the_labels_and_else_with_the_source():
    before, after = np.zeros((4, 2)), np.ones((4, 2))
    assert score("mse", before, after).drop == 1.0
    found = score("mse", before, after, np.ones((4, 2)))
    assert (found.before, found.after, found.drop) == (1.0, 0.0, -1.0)


def test_cosine_is_that_of_each_sample():
    found = score("cosine", [[1, 0], [0, 0]], [[1, 1], [0, 0]])
    assert found.after == pytest.approx((np.sqrt(0.5) + 1) / 2)
    assert found.before == 1.0


def test_filled_up_samples_do_not_count():
    evaluation = Evaluation(metric("cosine"))
    evaluation.add({"y": EYE}, {"y": np.concatenate([EYE[:3], -EYE[:1]])}, Batch({}, None, 3))
    assert (evaluation.score().samples, evaluation.score().after) == (3, 1.0)


def test_functions_score_samples():
    assert score(lambda outputs, labels: outputs["y"].max(axis=1), EYE, 2 * EYE).drop == -1.0


@pytest.mark.parametrize(
    ("name", "labels", "said"),
    [
        ("top2", [0] * 4, "no metric 'top2'"),
        ("top1", None, "needs labels"),
        ("top1", [0, 1, 2, 4], "not below 4"),
        ("top1", [0.5] * 4, "one whole number"),
        ("mse", [0, 1, 2, 3], "labels of shape"),
        ("numpy:nothing_like_it", None, "has no 'nothing_like_it'"),
        ("numpy:pi", None, "not a function"),
        (lambda outputs, labels: 1 / 0, None, "ZeroDivisionError"),
        (lambda outputs, labels: np.full(2, np.nan), None, "finite"),
        (lambda outputs, labels: 1.0, None, "1 scores for a batch of 2 samples"),
    ],
)
def test_what_is_wrong_with_a_metric_is_said(name, labels, said):
    with pytest.raises(UsageError, match=said) as error:
        score(name, EYE, EYE, labels)
    assert error.value.code == "bad-metric"


def test_f1_precision_and_recall_are_those_of_scikit_learn():
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    labels, logits = rng.integers(0, 4, 200), rng.standard_normal((200, 5))
    logits[np.arange(200), labels] += 1
    given = logits.argmax(axis=1)
    for name, function in (
        ("f1", sklearn.f1_score),
        ("precision", sklearn.precision_score),
        ("recall", sklearn.recall_score),
    ):
        each = function(labels, given, average=None, labels=range(5), zero_division=0)
        assert score(name, logits, logits, labels).before == pytest.approx(100 * each[:4].mean())
        for index in range(5):
            assert score(f"{name}:{index}", logits, logits, labels).before == pytest.approx(100 * each[index])


def test_a_class_that_nobody_names_and_one_beyond_all():
    assert score("precision:2", EYE, EYE, [0, 1, 0, 1]).before == 0.0
    assert score("recall:9", EYE, EYE, [0, 1, 2, 3]).before == 0.0


def test_a_rare_class_shows_what_an_average_hides():
    """One class in fifty is lost altogether: top-1 loses 2 points, its recall all 100."""
    labels = np.repeat([0, 1], [490, 10])
    before = np.eye(2)[labels]
    after = np.eye(2)[np.zeros(500, int)]
    assert score("top1", before, after, labels).drop == pytest.approx(2.0)
    assert score("recall:1", before, after, labels).drop == pytest.approx(100.0)
    assert score("f1", before, after, labels).drop > 50.0


def test_calibration_error():
    """Nine of ten right at a confidence of 0.6: the error is 0.3."""
    labels = np.tile([0] * 9 + [1], 20)
    sure = np.tile([0.6, 0.4], (200, 1))
    found = score("ece", sure, sure, labels)
    assert found.before == pytest.approx(30.0)
    assert found.better == "lower"
    logits = np.log(sure)
    assert score("ece", logits, logits, labels).before == pytest.approx(30.0)


def test_what_is_no_mean_has_a_bootstrap_interval_that_covers():
    """Of 100 draws, the 95 % interval of a difference in F1 misses the truth about 5 times."""
    rng = np.random.default_rng(2)
    right = 0.8
    wanted, misses = None, 0
    for draw in range(101):
        count = 200_000 if draw == 0 else 300
        labels = rng.integers(0, 2, count)
        good = rng.random(count) < right
        worse = np.where(rng.random(count) < 0.1, ~good, good)
        sides = [np.eye(2)[np.where(side, labels, 1 - labels)] for side in (good, worse)]
        if draw == 0:
            rows = [np.stack([side.argmax(axis=1), labels], axis=1) for side in sides]
            first, second = (metric("f1").of(one) for one in rows)
            wanted = 100 * (second - first)
            continue
        found = score("f1", *sides, labels)
        misses += not found.difference.low <= wanted <= found.difference.high
    assert 0 <= misses <= 14
    assert found.method == "bootstrap"


def test_a_function_over_all_samples(monkeypatch):
    """Called once with everything, such as a mean average precision, and not once a batch."""
    seen = []

    def most(outputs, labels):
        seen.append(len(labels))
        return outputs["y"].max() - labels.min()

    monkeypatch.setattr("normfold.measure.metrics.named", lambda *_: most)
    found = score("all:package:most", EYE, 2 * EYE, [0, 1, 2, 3])
    assert (found.before, found.after, found.samples) == (1.0, 2.0, 4)
    assert set(seen) == {4}
    assert found.method == "bootstrap"


@pytest.mark.parametrize("returned", [[1.0, 2.0], float("nan"), "x"])
def test_a_function_over_all_samples_returns_one_number(monkeypatch, returned):
    monkeypatch.setattr("normfold.measure.metrics.named", lambda *_: lambda outputs, labels: returned)
    with pytest.raises(UsageError) as caught:
        score("all:package:function", EYE, EYE, [0, 1, 2, 3])
    assert caught.value.code == "bad-metric"


def test_the_same_samples_get_the_same_interval():
    rng = np.random.default_rng(3)
    sides, labels = rng.standard_normal((2, 50, 4)), rng.integers(0, 4, 50)
    assert score("f1", *sides, labels) == score("f1", *sides, labels)


@pytest.mark.parametrize("name", ["f2", "f1:x", "recall:", "all:top1", "all:"])
def test_there_is_no_such_measure(name):
    with pytest.raises(UsageError) as caught:
        metric(name)
    assert caught.value.code == "bad-metric"


@pytest.mark.parametrize("name", ["f1", "ece", "recall:1"])
def test_classes_need_labels(name):
    with pytest.raises(UsageError, match="needs labels"):
        score(name, EYE, EYE)
