"""``Linear -> affine`` becomes ``Linear``."""

from __future__ import annotations

import numpy as np
import pytest

from folding import Example, Folded, array, model, norm, only_fold, proven_fold, statistics

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


def scaled(weights: np.ndarray, factors: list[float], shift: float = 0.0) -> Folded:
    """A float16 convolution, scaled by channel, as it is folded."""
    held = {"w": weights.astype(np.float16), **statistics(3, dtype=np.float16)}
    held |= {"s": np.array(factors, np.float16), "b": np.full(3, shift, np.float16)}
    held |= {"m": np.zeros(3, np.float16), "v": np.ones(3, np.float16)}
    return only_fold(model("float16[1, 4, 5, 5] x", [CONV, norm("h", "y")], held, outputs="float16[] y"))


def test_refused_because_a_float16_channel_vanishes() -> None:
    small = array(3, 4, 3, 3) * 1e-4
    folded = scaled(small, [1e-3, 2e-3, 1e-3])
    assert folded.refused == {"representable", "not-output"}
    assert "of a channel below 5.96e-08" in folded.because("representable")
    assert scaled(small, [1.0, 2e-3, 1.0]).refused == {"representable", "not-output"}


def test_a_float16_channel_without_a_signal_may_vanish() -> None:
    """Beside its shift, or the other channels of its layer, such a channel is nothing before the fold either."""
    assert scaled(array(3, 4, 3, 3), [1.0, 1e-6, 1.0]).decision.outcome == "folded"
    assert scaled(array(3, 4, 3, 3), [1e-6, 1e-6, 1e-6], shift=0.5).decision.outcome == "folded"
    assert scaled(array(3, 4, 3, 3), [1.0, 0.0, 1.0]).decision.outcome == "folded"


def test_small_float16_weights_lose_less_than_is_rounded_anyway() -> None:
    assert scaled(array(3, 4, 3, 3), [1e-3, 2e-3, 1e-2]).decision.outcome == "folded"


EXAMPLES = (
    Example(
        model("float[1, 4, 5, 5] x", ["h = Conv(x, w)", norm("h", "y")], {"w": array(3, 4, 3, 3), **statistics(3)})
    ),
)
