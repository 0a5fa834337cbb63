"""A weight that is normalised from constants at each run becomes a constant."""

from __future__ import annotations

import numpy as np
import pytest

from folding import Example, array, model, norm, proven_fold, statistics

IMAGE = "float[1, 4, 5, 5] x"
WEIGHT_NORM = [
    "sq = Mul(w0, w0)",
    "total = ReduceSum <keepdims = 1> (sq, axes)",
    "size = Sqrt(total)",
    "unit = Div(w0, size)",
    "w = Mul(unit, g)",
    "[linear] h = Conv(x, w)",
]
HELD = {"w0": array(3, 4, 1, 1), "g": array(3, 1, 1, 1, seed=2), "axes": np.array([1, 2, 3])}


def test_before_and_after() -> None:
    folded = proven_fold(model(IMAGE, [*WEIGHT_NORM, "y = Relu(h)"], HELD))
    assert folded.operators == ["Conv", "Relu"]


def test_with_a_norm_after_it() -> None:
    folded = proven_fold(model(IMAGE, [*WEIGHT_NORM, norm("h", "y")], HELD | statistics(3)))
    assert folded.operators == ["Conv"]


def test_a_part_that_is_not_constant_stays() -> None:
    held = {name: v for name, v in HELD.items() if name != "g"}
    folded = proven_fold(model(f"{IMAGE}, float[3, 1, 1, 1] g", [*WEIGHT_NORM, "y = Relu(h)"], held))
    assert "Mul" in folded.operators


def test_a_plain_expression_is_left_alone() -> None:
    """What no statistic enters is no norm: an exporter's transpose stays as it was."""
    body = ["w = Transpose <perm = [1, 0]> (w0)", "y = MatMul(x, w)"]
    folded = proven_fold(model("float[2, 5, 4] x", body, {"w0": array(3, 4)}))
    assert folded.operators == ["Transpose", "MatMul"]


@pytest.mark.parametrize("shape", [(1, 1), (1,), ()])
def test_spectral_norm(shape: tuple[int, ...]) -> None:
    """The divisor is the singular value ``u W v``, a matrix of one number or reshaped."""
    body = ["a = MatMul(u, w0)", "s = MatMul(a, v)", "d = Reshape(s, to)", "w = Div(w0, d)", "[linear] y = Gemm(x, w)"]
    held = {"w0": array(4, 6), "u": array(1, 4), "v": array(6, 1), "to": np.array(shape, np.int64)}
    folded = proven_fold(model("float[5, 4] x", body, held))
    assert folded.operators == ["Gemm"]


def test_a_weight_of_low_rank_is_left_alone() -> None:
    body = ["low = MatMul(a, b)", "part = Div(low, rank)", "w = Add(w0, part)", "y = MatMul(x, w)"]
    held = {"a": array(4, 1), "b": array(1, 6), "w0": array(4, 6), "rank": np.float32(8)}
    folded = proven_fold(model("float[5, 4] x", body, held))
    assert folded.operators == ["MatMul", "Div", "Add", "MatMul"]


EXAMPLES = (
    Example(
        model(
            IMAGE,
            [
                "rows = Reshape(w0, one)",
                norm("rows", "n"),
                "w = Reshape(n, back)",
                "y = Conv(x, w)",
            ],
            {"w0": HELD["w0"], "one": np.array([1, 3, 4]), "back": np.array([3, 4, 1, 1]), **statistics(3)},
        )
    ),
)
