"""A scale passes a product of two values: a gate."""

from __future__ import annotations

import numpy as np
import pytest

from folding import Example, array, doubling, model, norm, proven_fold, statistics

IMAGE = "float[1, 4, 5, 5] x"
GATED = ["[linear] h = Conv(x, w)", "g = Sigmoid(x)", "[gate] t = Mul(g, h)"]
HELD = {"w": array(4, 4, 1, 1), "k": array(4, 1, 1)}


def test_towards_the_producer() -> None:
    folded = proven_fold(model(IMAGE, [*GATED, "[scale] n = Mul(t, k)", "[next] y = Conv(n, w)"], HELD))
    assert folded.operators == ["Conv", "Sigmoid", "Mul", "Conv"]


def test_towards_the_consumer() -> None:
    body = [
        "r = Sinh(x)",
        "[scale] n = Mul(r, k)",
        "z = Conv(n, w)",
        "g = Sigmoid(x)",
        "t = Mul(n, g)",
        "[linear] y = Conv(t, w)",
    ]
    folded = proven_fold(model(IMAGE, body, HELD, outputs="float[] y, float[] z"))
    assert folded.operators.count("Mul") == 1
    assert folded.decision.outcome == "folded"


def test_a_gate_of_one_number_per_channel() -> None:
    """Squeeze and excitation: the scale goes to the factor that has the channels' shape, or the image's."""
    body = [
        "[linear] h = Conv(x, w)",
        "p = GlobalAveragePool(x)",
        "g = Sigmoid(p)",
        "t = Mul(h, g)",
        "[scale] n = Mul(t, k)",
        "y = Conv(n, w)",
    ]
    folded = proven_fold(model(IMAGE, body, HELD))
    assert "scale" in folded.decisions
    assert folded.operators.count("Mul") == 1


def test_refused_because_of_a_shift() -> None:
    folded = proven_fold(model(IMAGE, [*GATED, norm("t", "y")], {"w": HELD["w"], **statistics(4)}))
    assert folded.refused == {"no-shift", "not-output"}
    assert "Mul 'gate'" in folded.because("no-shift")


def test_refused_because_every_factor_is_broadcast() -> None:
    body = [
        "[one] a = Conv(x, u)",
        "[two] c = Reshape(z, to)",
        "[gate] t = Mul(a, c)",
        "n = Mul(t, k)",
        "[next] y = Conv(n, w)",
    ]
    held = {"u": array(1, 4, 1, 1), "to": np.array([1, 4, 1, 1]), "w": array(4, 4, 3, 3), "k": array(4, 5, 5)}
    folded = proven_fold(model(f"{IMAGE}, float[4] z", body, held))
    assert folded.refused == {"same-shape", "per-input-channel"}


@pytest.mark.parametrize("op", ["Mul(n, n)"])
def test_a_square(op: str) -> None:
    body = ["r = Sinh(x)", "[scale] n = Mul(r, k)", "z = Conv(n, w)", f"t = {op}", "y = Conv(t, w)"]
    folded = proven_fold(model(IMAGE, body, HELD, outputs="float[] y, float[] z"))
    assert folded.decision.outcome == "kept"


EXAMPLES = (
    Example(
        model(
            "float[1, 4, 6, 6] x",
            ["a = Conv(x, w)", "g = Sigmoid(x)", "j = Mul(a, g)", norm("j", "y")],
            {"w": array(4, 4, 1, 1), **doubling(4)},
        )
    ),
)
