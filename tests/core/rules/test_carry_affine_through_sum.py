"""An affine map passes an addition of branches."""

from __future__ import annotations

import numpy as np
import pytest

from folding import Example, array, model, norm, proven_fold, statistics

IMAGE = "float[1, 3, 5, 5] x"
HELD = {"u": array(4, 3, 1, 1), "w": array(4, 3, 3, 3, seed=2)}
BRANCHES = ["[one] a = Conv(x, u)", "[two] c = Conv <pads = [1, 1, 1, 1], strides = [1, 1]> (q, w)", "q = Relu(x)"]
BRANCHES = [BRANCHES[0], BRANCHES[2], BRANCHES[1]]


@pytest.mark.parametrize("op", ["Add(a, c)", "Sub(a, c)", "Sum(a, c)", "Add(c, a)"])
def test_towards_the_producers(op: str) -> None:
    folded = proven_fold(model(IMAGE, [*BRANCHES, f"t = {op}", norm("t", "y")], HELD | statistics(4)))
    assert "BatchNormalization" not in folded.operators
    assert set(folded.decision.into) == {"one", "two"}


def test_the_shift_goes_to_a_branch_that_can_take_it() -> None:
    body = ["[one] a = MatMul(x, u)", "[two] c = Gemm(x, w)", "t = Add(a, c)", norm("t", "y")]
    folded = proven_fold(model("float[5, 3] x", body, {"u": array(3, 4), "w": array(3, 4, seed=2), **statistics(4)}))
    assert "BatchNormalization" not in folded.operators
    assert "Add" in folded.operators


@pytest.mark.parametrize("op", ["Add(n, q)", "Sub(q, n)", "Sub(n, q)", "Sum(q, n)"])
def test_a_shift_towards_the_consumers(op: str) -> None:
    body = ["r = Sigmoid(x)", norm("r", "n"), "q = Tanh(x)", f"t = {op}", "[linear] y = Conv(t, w)"]
    held = {"w": array(4, 3, 3, 3), **statistics(3)}
    held["s"] = np.sqrt(held["v"] + np.float32(0.001), dtype=np.float32)
    proven_fold(model(IMAGE, body, held))


def exact_shift() -> dict[str, np.ndarray]:
    return {"s": np.ones(3, "f"), "b": array(3), "m": array(3, seed=2), "v": np.ones(3, "f")}


@pytest.mark.parametrize("op", ["Add(n, q)", "Sub(q, n)", "Sum(q, n)"])
def test_an_exact_shift_towards_the_consumers(op: str) -> None:
    body = [
        "r = Sigmoid(x)",
        "[shift] n = BatchNormalization <epsilon = 0.0> (r, s, b, m, v)",
        "q = Tanh(x)",
        f"t = {op}",
        "[linear] y = Conv(t, w)",
    ]
    folded = proven_fold(model(IMAGE, body, {"w": array(4, 3, 3, 3), **exact_shift()}))
    assert folded.decision.into == ("linear",)
    assert folded.decision.rules[0] == "carry_affine_through_sum"


def test_refused_because_of_a_scale() -> None:
    body = ["r = Sigmoid(x)", norm("r", "n"), "q = Tanh(x)", "[sum] t = Add(n, q)", "y = Conv(t, w)"]
    folded = proven_fold(model(IMAGE, body, {"w": array(4, 3, 3, 3), **statistics(3)}))
    assert folded.refused == {"no-scale", "linear-producer"}
    assert "Add 'sum'" in folded.because("no-scale")


@pytest.mark.parametrize("small", ["1, 1, 5, 5", "1, 1"])
def test_refused_because_a_branch_is_broadcast(small: str) -> None:
    body = ["[one] a = Conv(x, u)", "c0 = Sigmoid(z)", "c = Neg(c0)", "[sum] t = Add(a, c)", norm("t", "y")]
    if small == "1, 1, 5, 5":
        body[1] = "c0 = Conv(z, v1)"
    held = {"u": HELD["u"], **statistics(4)} | ({"v1": array(1, 1, 1, 1)} if small == "1, 1, 5, 5" else {})
    folded = proven_fold(model(f"{IMAGE}, float[{small}] z", body, held))
    assert folded.decision.outcome == "kept"
    assert "same-shape" in folded.refused


def test_one_branch_that_cannot_take_the_scale() -> None:
    body = ["[one] a = Conv(x, u)", "c = Sigmoid(a2)", "a2 = Conv(x, u)", "t = Add(a, c)", norm("t", "y")]
    body = [body[0], body[2], body[1], *body[3:]]
    folded = proven_fold(model(IMAGE, body, {"u": HELD["u"], **statistics(4)}))
    assert folded.decision.outcome == "kept"
    assert np.array_equal(folded.constant("u"), HELD["u"])


def test_a_value_added_to_itself() -> None:
    body = ["[one] a = Conv(x, u)", "t = Add(a, a)", norm("t", "y")]
    folded = proven_fold(model(IMAGE, body, {"u": HELD["u"], **statistics(4)}))
    assert "single-use" in folded.refused


EXAMPLES = (
    Example(
        model(
            "float[1, 4, 6, 6] x, float[1, 4, 6, 6] z",
            ["a = Conv(x, w)", "c = Conv(z, u)", "j = Add(a, c)", norm("j", "y")],
            {"w": array(3, 4, 1, 1), "u": array(3, 4, 1, 1, seed=1), **statistics(3)},
        )
    ),
)
