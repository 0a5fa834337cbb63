"""A pooling works on each channel by itself, unless it pools the channels."""

from __future__ import annotations

import numpy as np
import pytest

from folding import Example, array, model, proven_fold
from routes import sent, shuffle

ORDER = np.array([2, 0, 1])
SWAP = "[swap] g = Gather <axis = 1> (x, p)"
IMAGE = "float[2, 3, 5, 5] x"


@pytest.mark.parametrize(
    "line",
    ["a = AveragePool <kernel_shape = [2, 2]> (g)", "a = MaxPool <kernel_shape = [2, 2]> (g)"],
)
def test_past_a_pooling(line: str) -> None:
    body = [SWAP, line, "y = Conv (a, w)"]
    assert "Gather" not in proven_fold(model(IMAGE, body, {"p": ORDER, "w": array(4, 3, 2, 2)})).operators


def test_past_a_mean_that_drops_the_axes_it_is_taken_over() -> None:
    body = [SWAP, "a = ReduceMean <axes = [2, 3], keepdims = 0> (g)", "y = MatMul (a, w)"]
    assert "Gather" not in proven_fold(model(IMAGE, body, {"p": ORDER, "w": array(3, 4)})).operators


def test_not_pooled_axis() -> None:
    body = [SWAP, "a = ReduceMean <axes = [1], keepdims = 1> (g)", "y = Conv (a, w)"]
    source = model(IMAGE, body, {"p": ORDER, "w": array(4, 1, 1, 1)})
    assert "Gather" in proven_fold(source).operators
    _, plan, failed = sent(source, "swap", shuffle)
    assert plan is None
    assert failed == {"not-pooled-axis"}


EXAMPLES = (
    Example(
        model(
            IMAGE,
            [SWAP, "a = AveragePool <kernel_shape = [2, 2]> (g)", "y = Conv (a, w)"],
            {"p": ORDER, "w": array(4, 3, 2, 2)},
        )
    ),
)
