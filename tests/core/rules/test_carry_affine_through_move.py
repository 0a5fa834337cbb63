"""An affine map passes an operation that only moves elements, either way."""

from __future__ import annotations

import numpy as np
import pytest

from folding import Example, array, model, norm, proven_fold, statistics

BACK = {
    "transpose": ("2, 3, 5", (4, 3, 1), "Conv(x, w)", "Transpose <perm = [2, 1, 0]> (h)", 4, None),
    "unsqueeze": ("2, 3, 5", (4, 3, 1), "Conv(x, w)", "Unsqueeze(h, to)", 4, [3]),
    "squeeze": ("2, 3, 1", (4, 3, 1), "Conv(x, w)", "Squeeze(h, to)", 4, [2]),
    "squeeze-all": ("2, 3, 1", (4, 3, 1), "Conv(x, w)", "Squeeze(h)", 4, None),
    "flatten-ones": ("2, 3, 1", (4, 3, 1), "Conv(x, w)", "Flatten(h)", 4, None),
    "reshape-spatial": ("2, 3, 6", (4, 3, 1), "Conv(x, w)", "Reshape(h, to)", 4, [2, 4, 2, 3]),
    "reshape-free-batch": ("N, 3, 6", (4, 3, 1), "Conv(x, w)", "Reshape(h, to)", 4, [-1, 4, 2, 3]),
    "reshape-free-batch-zero": ("N, 3, 6", (4, 3, 1), "Conv(x, w)", "Reshape(h, to)", 4, [0, 4, -1, 2]),
    "reshape-free-length": ("2, 3, L", (4, 3, 1), "Conv(x, w)", "Reshape(h, to)", 4, [2, 4, -1, 1]),
    "reshape-groups": ("2, 3, 6", (4, 3, 1), "Conv(x, w)", "Reshape(h, to)", 2, [2, 2, 2, 6]),
    "matmul-transposed": ("2, 5, 3", (3, 4), "MatMul(x, w)", "Transpose <perm = [0, 2, 1]> (h)", 4, None),
    "matmul-transposed-back": ("2, 5, 3", (3, 4), "MatMul(x, w)", "Transpose <perm = [2, 0, 1]> (h)", 2, None),
    "matmul-flat": ("2, 5, 3", (3, 4), "MatMul(x, w)", "Reshape(h, to)", 4, [10, 4]),
    "matmul-flatten": ("2, 5, 3", (3, 4), "MatMul(x, w)", "Flatten <axis = 2> (h)", 4, None),
    "matmul-heads": ("2, 5, 3", (3, 4), "MatMul(x, w)", "Reshape(h, to)", 5, [2, 5, 2, 2]),
}
REFUSED = {"matmul-transposed-back": {"per-output-channel"}, "matmul-heads": {"per-output-channel"}}


@pytest.mark.parametrize("case", BACK)
def test_towards_the_producer(case: str) -> None:
    shape, weight, linear, move, channels, target = BACK[case]
    held = {"w": array(*weight), **statistics(channels)}
    if target is not None:
        held["to"] = np.array(target, np.int64)
    folded = proven_fold(
        model(f"float[{shape}] x", [f"[linear] h = {linear}", f"[move] t = {move}", norm("t", "y")], held)
    )
    if case in REFUSED:
        assert folded.refused == {*REFUSED[case], "not-output"}
    else:
        assert folded.decision.into == ("linear",)
        assert "carry_affine_through_move" in folded.decision.rules


AFTER = {
    "flatten": ("2, 3, 2, 2", "Flatten(n)", (12, 4), "MatMul(t, w)", None),
    "reshape-flat": ("2, 3, 2, 2", "Reshape(n, to)", (12, 4), "MatMul(t, w)", [2, -1]),
    "reshape-flat-zero": ("N, 3, 2, 2", "Reshape(n, to)", (12, 4), "MatMul(t, w)", [0, -1]),
    "transpose": ("2, 3, 5", "Transpose <perm = [0, 2, 1]> (n)", (3, 4), "MatMul(t, w)", None),
    "tokens": ("2, 3, 2, 2", "Transpose <perm = [0, 2, 3, 1]> (n)", (3, 4), "MatMul(t, w)", None),
    "slice": ("2, 5, 4", "Slice(n, from, to, axes, steps)", (4, 2, 1), "Conv(t, w)", [5]),
    "slice-back": ("2, 5, 4", "Slice(n, from, to, axes)", (4, 4, 1), "Conv(t, w)", [-1]),
    "space": ("2, 3, 2, 2", "Unsqueeze(n, to)", (4, 3, 1, 1, 1), "Conv(t, w)", [4]),
}


@pytest.mark.parametrize("case", AFTER)
def test_towards_the_consumer(case: str) -> None:
    shape, move, weight, linear, target = AFTER[case]
    held = {"w": array(*weight), **statistics(5 if case.startswith("slice") else 3)}
    extra = {"from": [1] if case == "slice" else [0], "axes": [1], "steps": [2]}
    held |= {name: np.array(v, np.int64) for name, v in extra.items() if f" {name}" in move}
    if target is not None:
        held["to"] = np.array(target, np.int64)
    body = ["r = Sigmoid(x)", norm("r", "n"), f"[move] t = {move}", f"[linear] y = {linear}"]
    folded = proven_fold(model(f"float[{shape}] x", body, held))
    assert folded.decision.outcome == "folded"
    assert "carry_affine_through_move" in folded.decision.rules


def test_each_part_of_a_split_gets_its_channels() -> None:
    held = {"w": array(4, 2, 1), "u": array(2, 3, 1), "parts": np.array([2, 3]), **statistics(5)}
    body = [
        "r = Sigmoid(x)",
        norm("r", "n"),
        "a, c = Split <axis = 1> (n, parts)",
        "[one] y = Conv(a, w)",
        "[two] z = Conv(c, u)",
    ]
    folded = proven_fold(model("float[2, 5, 4] x", body, held, outputs="float[] y, float[] z"))
    assert folded.decision.into == ("one", "two")


def test_a_part_of_a_split_leaves_the_others_alone() -> None:
    held = {"w": array(5, 3, 1), "parts": np.array([2, 3]), **statistics(2)}
    body = ["[linear] h = Conv(x, w)", "a, z = Split <axis = 1> (h, parts)", norm("a", "y")]
    folded = proven_fold(model("float[2, 3, 4] x", body, held, outputs="float[] y, float[] z"))
    assert folded.decision.into == ("linear",)


def test_a_slice_that_others_do_not_see() -> None:
    held = {
        "w": array(5, 3, 1),
        "k": array(2, 1),
        "from": np.array([1]),
        "to": np.array([4]),
        "axes": np.array([1]),
        "steps": np.array([2]),
    }
    body = ["[linear] h = Conv(x, w)", "a = Slice(h, from, to, axes, steps)", "y = Mul(a, k)"]
    proven_fold(model("float[2, 3, 4] x", body, held))


@pytest.mark.parametrize(
    ("shape", "target"),
    [
        ("2, 3, 4", [2, 4, 3]),
        ("2, 6, 4", [2, 4, 6]),
        ("2, 4, 4", [2, 2, 8]),
        ("N, 3, L", [-1, 3]),
        ("2, 3, L", [6, -1]),
    ],
)
def test_a_reshape_that_mixes(shape: str, target: list[int]) -> None:
    channels = int(shape.split(",")[1])
    held = {
        "w": array(channels, 5, 1),
        "to": np.array(target, np.int64),
        **statistics(target[1] if target[1] > 0 else 2),
    }
    source = f"float[{shape.replace(f', {channels},', ', 5,', 1)}] x"
    if target[1] == -1:
        held |= {"k": array(6, 1)}
        body = ["[linear] h = Conv(x, w)", "[move] t = Reshape(h, to)", "y = Mul(t, k)"]
    else:
        body = ["[linear] h = Conv(x, w)", "[move] t = Reshape(h, to)", norm("t", "y")]
    folded = proven_fold(
        model(source, body, held),
        feeds={
            "x": array(*(int(d) if d.isdigit() else 2 for d in shape.replace(f", {channels},", ", 5,", 1).split(", ")))
        },
    )
    assert "Reshape" in folded.operators


def test_refused_because_not_a_static_reshape() -> None:
    body = ["[linear] h = Conv(x, w)", "[move] t = Reshape(h, to)", norm("t", "y")]
    held = {"w": array(4, 3, 1), "to": np.array([2, 4, 6]), **statistics(4)}
    folded = proven_fold(model("float[L, 3, K] x", body, held), feeds={"x": array(2, 3, 6)})
    assert folded.refused == {"static-reshape", "not-output"}
    assert "Reshape 'move'" in folded.because("static-reshape")


def test_refused_because_the_target_is_computed() -> None:
    body = ["[linear] h = Conv(x, w)", "[move] t = Reshape(h, to)", "q = Mul(t, k)", "y = Relu(q)"]
    held = {"w": array(4, 3, 1), "k": array(4, 1)}
    folded = proven_fold(
        model("float[2, 3, 6] x, int64[3] to", body, held), feeds={"x": array(2, 3, 6), "to": np.array([2, 4, 6])}
    )
    assert "Mul" in folded.operators


def test_a_size_of_zero() -> None:
    """Nothing flows through, and nothing falls over."""
    body = ["[linear] h = Conv(x, w)", "[move] t = Reshape(h, to)", norm("t", "y")]
    held = {"w": array(4, 3, 1), "to": np.array([0, 4, 3, 2]), **statistics(4)}
    proven_fold(model("float[0, 3, 6] x", body, held), feeds={"x": np.zeros((0, 3, 6), np.float32)})


EXAMPLES = (
    Example(
        model(
            "float[2, 5, 4] x",
            ["h = MatMul(x, w)", "t = Transpose <perm = [0, 2, 1]> (h)", norm("t", "y")],
            {"w": array(4, 3), **statistics(3)},
        )
    ),
)
