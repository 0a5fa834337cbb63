"""An affine map passes a Concat: each part has its slice of it."""

from __future__ import annotations

import numpy as np

from folding import Example, array, model, norm, proven_fold, statistics

IMAGE = "float[1, 3, 5, 5] x"
PARTS = ["[one] a = Conv(x, u)", "[two] c = Conv(x, w)", "[join] t = Concat <axis = 1> (a, c)"]
HELD = {"u": array(2, 3, 1, 1), "w": array(4, 3, 1, 1, seed=2)}


def test_towards_the_producers() -> None:
    folded = proven_fold(model(IMAGE, [*PARTS, norm("t", "y")], HELD | statistics(6)))
    assert folded.operators == ["Conv", "Conv", "Concat"]
    assert folded.decision.into == ("one", "two")
    assert folded.decision.rules[0] == "carry_affine_through_concat"


def test_towards_the_consumers() -> None:
    body = [
        "r = Sigmoid(x)",
        norm("r", "n"),
        "q = Tanh(x)",
        "t = Concat <axis = -3> (q, n)",
        "[linear] y = Conv(t, v2)",
    ]
    folded = proven_fold(model(IMAGE, body, {"v2": array(4, 6, 1, 1), **statistics(3)}))
    assert folded.operators == ["Sigmoid", "Tanh", "Concat", "Conv"]
    assert folded.decision.into == ("linear",)


def test_a_scale_of_one_part_next_to_others() -> None:
    body = [
        "r = Sigmoid(x)",
        "[scale] n = Mul(r, k)",
        "q = Tanh(x)",
        "t = Concat <axis = 1> (n, q, n)",
        "[linear] y = Conv(t, w)",
    ]
    proven_fold(model(IMAGE, body, {"w": array(4, 9, 1, 1), "k": array(3, 1, 1)}))


def test_parts_that_the_map_leaves_alone_need_not_take_it() -> None:
    held = HELD | {"k": np.concatenate([np.ones(3, "f"), array(4)]).reshape(7, 1, 1)}
    body = ["a = Sigmoid(x)", "[two] c = Conv(x, w)", "t = Concat <axis = 1> (a, c)", "y = Mul(t, k)"]
    proven_fold(model(IMAGE, body, {"w": held["w"], "k": held["k"]}))


def test_one_part_that_cannot_take_it() -> None:
    body = ["a = Sigmoid(x)", "[two] c = Conv(x, w)", "t = Concat <axis = 1> (a, c)", norm("t", "y")]
    folded = proven_fold(model(IMAGE, body, {"w": HELD["w"], **statistics(7)}))
    assert folded.decision.outcome == "kept"
    assert folded.refused == {"linear-producer", "not-output"}


def test_a_part_that_comes_twice() -> None:
    body = ["[one] a = Conv(x, u)", "t = Concat <axis = 1> (a, a)", norm("t", "y")]
    folded = proven_fold(model(IMAGE, body, {"u": HELD["u"], **statistics(4)}))
    assert folded.refused == {"single-use", "not-output"}


def test_along_another_axis() -> None:
    body = ["[one] a = Conv(x, u)", "[two] c = Conv(x, w)", "t = Concat <axis = 3> (a, c)", norm("t", "y")]
    folded = proven_fold(model(IMAGE, body, {"u": array(4, 3, 1, 1), "w": HELD["w"], **statistics(4)}))
    assert folded.decision.into == ("one", "two")


def test_refused_because_the_parts_are_not_known() -> None:
    body = ["[one] a = Conv(x, u)", "[two] c = Reshape(z, to)", "[join] t = Concat <axis = 1> (a, c)", norm("t", "y")]
    source = model(f"{IMAGE}, float[1, C, 5, 5] z, int64[4] to", body, {"u": HELD["u"], **statistics(6)})
    folded = proven_fold(source, feeds={"x": array(1, 3, 5, 5), "z": array(1, 4, 5, 5), "to": np.array([1, 4, 5, 5])})
    assert folded.refused == {"known-parts", "not-output"}
    assert "Concat 'join'" in folded.because("known-parts")


EXAMPLES = (
    Example(
        model(
            "float[1, 4, 6, 6] x",
            ["a = Conv(x, w)", "c = Conv(x, u)", "j = Concat <axis = 1> (a, c)", norm("j", "y")],
            {"w": array(2, 4, 1, 1), "u": array(3, 4, 1, 1), **statistics(5)},
        )
    ),
)
