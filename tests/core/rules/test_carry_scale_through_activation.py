"""A scale passes Relu and its kin."""

from __future__ import annotations

import numpy as np
import pytest

from folding import Example, array, model, norm, proven_fold, statistics

IMAGE = "float[1, 4, 5, 5] x"
ACTIVATIONS = {
    "relu": "Relu(h)",
    "leaky": "LeakyRelu <alpha = 0.3> (h)",
    "leaky-negative": "LeakyRelu <alpha = -0.3> (h)",
    "parametric": "PRelu(h, slope)",
    "absolute": "Abs(h)",
    "maximum": "Max(h, zero)",
    "minimum": "Min(h, zero)",
}
SLOPE = {"slope": array(4, 1, 1, seed=4)}


def held(case: str, *, sign: int = 1) -> dict[str, np.ndarray]:
    slope = SLOPE if case == "parametric" else {"zero": np.float32(0)} if case in ("maximum", "minimum") else {}
    scale = np.abs(array(4, 1, 1, seed=5))
    scale[2] *= sign
    return {"w": array(4, 4, 3, 3), "k": scale, **slope}


@pytest.mark.parametrize("case", ACTIVATIONS)
def test_towards_the_producer(case: str) -> None:
    body = [
        "[linear] h = Conv(x, w)",
        f"[act] t = {ACTIVATIONS[case]}",
        "[scale] n = Mul(t, k)",
        "[next] y = Conv(n, w)",
    ]
    folded = proven_fold(model("float[1, 4, 9, 9] x", body, held(case)))
    assert "Mul" not in folded.operators


@pytest.mark.parametrize("case", ACTIVATIONS)
def test_towards_the_consumer(case: str) -> None:
    body = ["h0 = Sinh(x)", "[scale] h = Mul(h0, k)", f"[act] t = {ACTIVATIONS[case]}", "[linear] y = Conv(t, w)"]
    folded = proven_fold(model(IMAGE, [*body, "z = Conv(h, w)"], held(case), outputs="float[] y, float[] z"))
    assert folded.decision.into == ("linear", "y_") or set(folded.decision.into) >= {"linear"}
    assert "Mul" not in folded.operators


@pytest.mark.parametrize("case", ACTIVATIONS)
def test_refused_because_not_a_non_negative_scale(case: str) -> None:
    body = [
        "h0 = Sinh(x)",
        "[scale] h = Mul(h0, k)",
        f"[act] t = {ACTIVATIONS[case]}",
        "z = Conv(h, w)",
        "y = Conv(t, w)",
    ]
    folded = proven_fold(model(IMAGE, body, held(case, sign=-1), outputs="float[] y, float[] z"))
    assert folded.refused == {"non-negative-scale", "linear-producer"}
    assert "1 of 4 scales" in folded.because("non-negative-scale")


@pytest.mark.parametrize("case", ACTIVATIONS)
def test_refused_because_of_a_shift(case: str) -> None:
    constants = held(case) | statistics(4)
    constants["s"] = np.abs(constants["s"])
    del constants["k"]
    body = ["[linear] g = Conv(x, w)", f"[act] n0 = {ACTIVATIONS[case].replace('(h', '(g')}", norm("n0", "y")]
    folded = proven_fold(model(IMAGE, body, constants))
    assert folded.refused == {"no-shift", "not-output"}


def test_a_slope_that_is_the_value_itself() -> None:
    body = ["h0 = Sinh(x)", "[scale] h = Mul(h0, k)", "t = PRelu(x, h)", "y = Conv(t, w)", "z = Conv(h, w)"]
    folded = proven_fold(model(IMAGE, body, held("relu"), outputs="float[] y, float[] z"))
    assert folded.decision.outcome == "kept"


@pytest.mark.parametrize(
    "act", ["Sigmoid(h)", "Elu(h)", "Selu(h)", "Softplus(h)", "HardSwish(h)", "ThresholdedRelu(h)", "Tanh(h)"]
)
def test_what_is_not_homogeneous(act: str) -> None:
    body = ["h0 = Sinh(x)", "[scale] h = Mul(h0, k)", f"t = {act}", "z = Conv(h, w)", "y = Conv(t, w)"]
    folded = proven_fold(model(IMAGE, body, held("relu"), outputs="float[] y, float[] z"))
    assert folded.refused == {"linear-consumer", "linear-producer"}


@pytest.mark.parametrize("other", ["one", "zeros", "x"])
def test_refused_because_the_bound_is_not_a_zero(other: str) -> None:
    body = ["[linear] h = Conv(x, w)", f"t = Max(h, {other})", norm("t", "y")]
    extra = {"one": np.float32(1), "zeros": np.array([[[0.0]], [[0.0]], [[0.0]], [[1.0]]], np.float32)}
    constants = {"w": array(4, 4, 1, 1), **statistics(4), **{n: v for n, v in extra.items() if n == other}}
    # A Max by another constant is a Clip, whose one bound stays on its side.
    premise = "constant" if other == "x" else "uniform-bounds"
    assert premise in proven_fold(model(IMAGE, body, constants)).refused


EXAMPLES = (
    Example(
        model(
            "float[1, 4, 6, 6] x",
            ["a = Conv(x, w)", "r = Relu(a)", "m = Mul(r, k)", "y = Conv(m, u)"],
            {"w": array(3, 4, 1, 1), "u": array(2, 3, 1, 1), "k": np.abs(array(3, 1, 1))},
        )
    ),
)
