"""``Linear -> affine`` becomes ``Linear``."""

from __future__ import annotations

import numpy as np
import pytest

from folding import Example, array, model, norm, only_fold, proven_fold, statistics

IMAGE = "float[1, 4, 5, 5] x"
CONV = "[linear] h = Conv <pads = [1, 1, 1, 1]> (x, w)"


def test_before_and_after() -> None:
    folded = proven_fold(model(IMAGE, [CONV, norm("h", "y")], {"w": array(3, 4, 3, 3), **statistics(3)}))
    assert folded.operators == ["Conv"]
    assert folded.decision.rules == ("fold_affine_into_producer",)
    assert folded.decision.into == ("linear",)


def test_without_a_place_for_the_shift() -> None:
    body = ["[linear] h = MatMul(x, w)", "[scale] t = Mul(h, k)", "y = Add(t, d)"]
    folded = proven_fold(
        model("float[2, 5, 4] x", body, {"w": array(4, 3), "k": array(3, seed=1), "d": array(3, seed=2)})
    )
    assert folded.operators == ["MatMul", "Add"]


@pytest.mark.parametrize("number", [np.inf, np.nan])
def test_refused_because_not_finite(number: float) -> None:
    held = {"w": array(3, 4, 3, 3), "k": np.array([1, number, 1], np.float32).reshape(3, 1, 1)}
    folded = only_fold(model(IMAGE, [CONV, "y = Mul(h, k)"], held))
    assert folded.refused == {"finite", "not-output"}


def test_refused_because_not_per_output_channel() -> None:
    folded = proven_fold(model(IMAGE, [CONV, "y = Mul(h, k)"], {"w": array(3, 4, 3, 3), "k": array(5)}))
    assert folded.refused == {"per-output-channel", "not-output"}


def test_refused_because_not_representable() -> None:
    held = {"w": array(3, 4, 3, 3, dtype=np.float16), "k": np.full((3, 1, 1), 60000, np.float16)}
    folded = only_fold(model("float16[1, 4, 5, 5] x", [CONV, "y = Mul(h, k)"], held, outputs="float16[] y"))
    assert folded.refused == {"representable", "not-output"}


EXAMPLES = (
    Example(
        model("float[1, 4, 5, 5] x", ["h = Conv(x, w)", norm("h", "y")], {"w": array(3, 4, 3, 3), **statistics(3)})
    ),
)
