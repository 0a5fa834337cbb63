"""Before opset 7, arithmetic broadcasts only where an attribute says so, and along an axis that another one names."""

from __future__ import annotations

import pytest

from folding import array, model, norm, only_fold, statistics

INFERENCE = ", is_test = 1"


@pytest.mark.parametrize("axis", [", axis = 1", ""])
def test_a_scale_that_broadcasts_by_attributes(axis: str) -> None:
    """Five channels and five columns: ``axis`` alone says which is meant."""
    body = [
        "[linear] h = Conv(x, w)",
        f"[scale] t = Mul <broadcast = 1{axis}> (h, k)",
        norm("t", "y", attributes=INFERENCE),
    ]
    folded = only_fold(
        model("float[1, 4, 5, 5] x", body, {"w": array(5, 4, 1, 1), "k": array(5), **statistics(5)}, opset=6)
    )
    assert folded.operators == ["Conv", "Mul", "BatchNormalization"]
    assert folded.refused == {"same-shape", "not-output"}
    assert "opset 7" in folded.because("same-shape")


@pytest.mark.parametrize("shape", ["5, 4", "2, 3, 4"])
def test_a_matrix_product_that_an_addition_would_follow(shape: str) -> None:
    body = ["[linear] h = MatMul(x, w)", norm("h", "y", attributes=INFERENCE)]
    folded = only_fold(model(f"float[{shape}] x", body, {"w": array(4, 3), **statistics(3)}, opset=6))
    assert folded.operators == ["MatMul", "BatchNormalization"]
    assert folded.refused == {"room", "not-output"}


@pytest.mark.parametrize("op", ["Conv(x, w)", "ConvTranspose(x, u)"])
def test_convolutions(op: str) -> None:
    body = [f"[linear] h = {op}", norm("h", "y", attributes=INFERENCE)]
    held = {"w": array(3, 4, 1, 1)} if "w" in op else {"u": array(4, 3, 1, 1)}
    folded = only_fold(model("float[1, 4, 5, 5] x", body, held | statistics(3), opset=6))
    assert len(folded.operators) == 1
    assert folded.decision.into == ("linear",)


def test_gemm() -> None:
    body = ["[linear] h = Gemm <broadcast = 1> (x, w, c)", norm("h", "y", attributes=INFERENCE)]
    folded = only_fold(model("float[5, 4] x", body, {"w": array(4, 3), "c": array(3), **statistics(3)}, opset=6))
    assert folded.operators == ["Gemm"]
