"""Maps that change nothing go, wherever they stand."""

from __future__ import annotations

import numpy as np
import pytest

from folding import Example, array, model, proven_fold, refused_by
from normfold.core.rules.drop_identity_map import RULE

ONE, ZERO = np.ones((4, 1, 1), np.float32), np.zeros((4, 1, 1), np.float32)


@pytest.mark.parametrize(("step", "held"), [("Mul(r, k)", ONE), ("Div(r, k)", ONE), ("Add(r, k)", ZERO)])
def test_between_operations_that_absorb_nothing(step: str, held: np.ndarray) -> None:
    folded = proven_fold(model("float[1, 4, 6, 6] x", ["r = Sigmoid(x)", f"m = {step}", "y = Tanh(m)"], {"k": held}))
    assert folded.operators == ["Sigmoid", "Tanh"]


def test_a_layer_scale_of_ones_is_folded_and_decided() -> None:
    body = ["c = Conv(x, w)", "r = Relu(c)", "[scale] m = Mul(c, k)", "y = Add(m, r)"]
    folded = proven_fold(model("float[1, 4, 6, 6] x", body, {"w": array(4, 4, 1, 1), "k": ONE}))
    assert folded.operators == ["Conv", "Relu", "Add"]
    assert folded.decisions["scale"].rules == ("drop_identity_map",)


def test_the_output_keeps_its_name() -> None:
    folded = proven_fold(model("float[1, 4, 6, 6] x", ["r = Sigmoid(x)", "y = Mul(r, k)"], {"k": ONE}))
    assert folded.operators == ["Sigmoid"]


def test_an_input_is_not_an_output() -> None:
    """not-output: without the operation, the model's output would be its input."""
    folded = proven_fold(model("float[1, 4, 6, 6] x", ["y = Mul(x, k)"], {"k": ONE}))
    assert folded.operators == ["Mul"]


def test_nearly_one_is_not_one() -> None:
    near = np.nextafter(ONE, np.float32(2))
    folded = proven_fold(model("float[1, 4, 6, 6] x", ["r = Sigmoid(x)", "m = Mul(r, k)", "y = Tanh(m)"], {"k": near}))
    assert folded.operators == ["Sigmoid", "Mul", "Tanh"]


def test_a_product_with_its_reciprocal_is_one() -> None:
    """In float64, ``1/k * k`` need not be: the two become one map, which then goes."""
    rng = np.random.default_rng(3)
    held = {"k": rng.uniform(1, 3, (64, 1, 1)).astype(np.float32), "w": array(6, 5)}
    reciprocals = 1 / held["k"].astype(np.float64)
    assert (reciprocals * held["k"] != 1).any()
    body = ["d = Div(x, k)", "m = Mul(d, k)", "z = Tanh(m)", "y = MatMul(m, w)"]
    folded = proven_fold(model("float[1, 64, 6, 6] x", body, held, outputs="float[] y, float[] z"))
    assert folded.operators == ["Tanh", "MatMul"]


LONE = "then_branch = t () => (float[4] o) { o = Mul(x, k) }, else_branch = e () => (float[4] i) { i = Relu(x) }"
REFUSED = {
    "not-output": [
        model("float[4] x", ["y = Mul(x, k)"], {"k": np.float32(1)}),
        model("float[4] x", ["r = Relu(x)", "y = Mul(r, k)"], {"k": np.float32(1)}, outputs="float[4] r, float[] y"),
        model("float[4] x, bool flag", [f"y = If (flag) <{LONE}>"], {"k": np.float32(1)}),
        model("float[4] z, bool flag", ["x = Relu(z)", f"y = If (flag) <{LONE}>"], {"k": np.float32(1)}),
    ]
}


@pytest.mark.parametrize("premise", REFUSED)
def test_refused_because_not(premise: str) -> None:
    """Each of these breaks one premise and no other."""
    for source in REFUSED[premise]:
        assert refused_by(RULE, source) == {premise}


EXAMPLES = (
    Example(
        model(
            "float[1, 5, 4] x",
            ["h = MatMul(x, w)", "m = Mul(h, k)", "y = Add(m, x)"],
            {"w": array(4, 4), "k": np.ones(4, np.float32)},
        )
    ),
)
