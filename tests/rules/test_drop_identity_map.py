"""Maps that change nothing go, wherever they stand."""

from __future__ import annotations

import numpy as np
import pytest

from folding import array, model, proven_fold

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
