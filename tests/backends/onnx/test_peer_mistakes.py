"""Folds of ONNX models that other tools get wrong: each is right here, or refused by name."""

from __future__ import annotations

import numpy as np
import pytest

from folding import array, model, norm, only_fold, proven_fold, statistics


@pytest.mark.parametrize(
    ("between", "channels"),
    [
        ("r = Transpose <perm = [1, 0, 2]> (h)", 2),
        ("r = Reshape(h, to354)", 5),
        ("r = Reshape(h, to44)", 4),
        ("r = Reshape(h, to414)", 1),
    ],
)
def test_matmul_then_reshape_or_transpose_then_norm_on_another_axis(between: str, channels: int) -> None:
    """Its channels are not the product's output channels, even where there are as many."""
    shapes = {"to354": (2, 5, 4), "to44": (10, 4), "to414": (-1, 1, 4)}
    held = {"w": array(3, 4), **statistics(channels)}
    held |= {name: np.array(shape, np.int64) for name, shape in shapes.items() if name in between}
    folded = proven_fold(model("float[2, 5, 3] x", ["[linear] h = MatMul(x, w)", between, norm("r", "y")], held))
    if channels in (1, 4):  # [10, 4] keeps the output axis apart, and one channel is a scalar
        assert folded.decision.into == ("linear",)
    else:
        assert folded.refused == {"per-output-channel", "not-output"}


def test_matmul_then_norm_where_the_sizes_coincide() -> None:
    """[2, 4, 4]: the norm's channels are the rows, the product's are the columns."""
    body = ["[linear] h = MatMul(x, w)", norm("h", "y")]
    folded = proven_fold(model("float[2, 4, 3] x", body, {"w": array(3, 4), **statistics(4)}))
    assert folded.decision.outcome == "kept"
    assert folded.refused == {"per-output-channel", "not-output"}
    assert "4 output channels of MatMul 'linear'" in folded.because("per-output-channel")


def test_matmul_then_transpose_then_norm_where_the_sizes_coincide() -> None:
    body = ["[linear] h = MatMul(x, w)", "t = Transpose <perm = [0, 2, 1]> (h)", norm("t", "y")]
    folded = proven_fold(model("float[2, 4, 3] x", body, {"w": array(3, 4), **statistics(4)}))
    assert folded.operators == ["MatMul", "Add", "Transpose"]
    assert folded.decision.into == ("linear",)


def test_matmul_then_a_reshape_that_is_no_transpose_where_the_sizes_coincide() -> None:
    held = {"w": array(3, 4), "to": np.array([2, 4, 5], np.int64), **statistics(4)}
    body = ["[linear] h = MatMul(x, w)", "[mix] t = Reshape(h, to)", norm("t", "y")]
    folded = proven_fold(model("float[2, 5, 3] x", body, held))
    assert folded.decision.outcome == "kept"
    assert "per-output-channel" in folded.refused


def test_linear_on_three_dimensions_with_a_norm_over_the_middle_one() -> None:
    """Linear(N, C, L) -> BatchNorm over C, as torch.fx folds it wrongly."""
    body = ["[linear] h = MatMul(x, w)", "[bias] t = Add(h, c)", norm("t", "y")]
    folded = proven_fold(model("float[2, 4, 3] x", body, {"w": array(3, 4), "c": array(4), **statistics(4)}))
    assert folded.decision.outcome == "kept"
    assert "per-output-channel" in folded.refused


@pytest.mark.parametrize("axis", ["height", "width"])
def test_a_scale_along_height_or_width_of_the_size_of_the_channels(axis: str) -> None:
    constant = array(4, 1, seed=2) if axis == "height" else array(4, seed=2)
    body = ["[linear] h = Conv(x, w)", "y = Mul(h, k)"]
    folded = proven_fold(model("float[1, 3, 4, 4] x", body, {"w": array(4, 3, 1, 1), "k": constant}))
    assert folded.operators == ["Conv", "Mul"]
    assert folded.refused == {"per-output-channel", "not-output"}
    assert "4 output channels of Conv 'linear'" in folded.because("per-output-channel")


def test_a_norm_in_training_mode() -> None:
    held = {"w": array(3, 4, 1, 1), **statistics(3)}
    body = ["h = Conv(x, w)", "y, p, q = BatchNormalization <training_mode = 1> (h, s, b, m, v)"]
    folded = only_fold(model("float[2, 4, 5, 5] x", body, held))
    assert folded.operators == ["Conv", "BatchNormalization"]
    assert folded.refused == {"inference-mode"}


def test_a_convolution_with_another_reader() -> None:
    body = ["[linear] h = Conv(x, w)", norm("h", "y"), "[other] z = Relu(h)"]
    source = model(
        "float[1, 4, 5, 5] x", body, {"w": array(3, 4, 1, 1), **statistics(3)}, outputs="float[] y, float[] z"
    )
    folded = proven_fold(source)
    assert folded.decision.outcome == "kept"
    assert folded.refused >= {"single-use", "not-output"}
    assert "Relu 'other'" in folded.because("single-use")
    assert "Conv 'linear'" in folded.because("single-use")


def test_a_convolution_that_two_norms_share() -> None:
    body = ["[linear] h = Conv(x, w)", norm("h", "y", "p"), norm("h", "z", "q")]
    held = {"w": array(3, 4, 1, 1), **statistics(3, "p"), **statistics(3, "q", seed=20)}
    folded = proven_fold(model("float[1, 4, 5, 5] x", body, held, outputs="float[] y, float[] z"))
    # One of them may go, where the other takes back what it would see of it; never both.
    kept = [d for d in folded.decisions.values() if d.outcome == "kept"]
    assert kept
    assert folded.operators == ["Conv", *["BatchNormalization"] * len(kept)]


def test_a_convolution_used_once_with_a_norm_and_once_without() -> None:
    body = ["[linear] h = Conv(x, w)", norm("h", "t"), "y = Add(h, t)"]
    folded = proven_fold(model("float[1, 4, 5, 5] x", body, {"w": array(3, 4, 1, 1), **statistics(3)}))
    assert folded.decision.outcome == "kept"
    assert "single-use" in folded.refused


def test_a_convolution_whose_output_is_an_output() -> None:
    body = ["[linear] h = Conv(x, w)", norm("h", "y")]
    source = model(
        "float[1, 4, 5, 5] x", body, {"w": array(3, 4, 1, 1), **statistics(3)}, outputs="float[] y, float[] h"
    )
    folded = proven_fold(source)
    assert folded.decision.outcome == "kept"
    assert {r.premise for r in folded.decision.refused_by} == {"not-output"}
    assert any("'h' is an output" in r.because for r in folded.decision.refused_by)


def test_one_weight_in_two_convolutions_with_different_norms() -> None:
    """A convolution called twice: each gets a weight of its own."""
    body = ["[one] h = Conv(x, w)", norm("h", "y", "p"), "[two] g = Conv(x, w)", norm("g", "z", "q")]
    held = {"w": array(3, 4, 1, 1), **statistics(3, "p"), **statistics(3, "q", seed=20)}
    folded = proven_fold(model("float[1, 4, 5, 5] x", body, held, outputs="float[] y, float[] z"))
    assert folded.operators == ["Conv", "Conv"]
    assert folded.result.graph.node[0].input[1] != folded.result.graph.node[1].input[1]


def test_one_weight_in_two_convolutions_of_which_one_has_a_norm() -> None:
    body = ["[one] h = Conv(x, w)", norm("h", "y"), "[two] z = Conv(x, w)"]
    held = {"w": array(3, 4, 1, 1), **statistics(3)}
    folded = proven_fold(model("float[1, 4, 5, 5] x", body, held, outputs="float[] y, float[] z"))
    assert folded.operators == ["Conv", "Conv"]
    assert np.array_equal(folded.constant(folded.result.graph.node[1].input[1]), held["w"])


def test_one_bias_in_two_convolutions() -> None:
    body = ["[one] h = Conv(x, w, c)", norm("h", "y"), "[two] z = Conv(x, u, c)"]
    held = {"w": array(3, 4, 1, 1), "u": array(3, 4, 1, 1, seed=2), "c": array(3), **statistics(3)}
    folded = proven_fold(model("float[1, 4, 5, 5] x", body, held, outputs="float[] y, float[] z"))
    assert folded.operators == ["Conv", "Conv"]


def test_the_bias_of_a_convolution_is_scaled() -> None:
    """optimum scales the weight only."""
    body = ["[linear] h = Conv(x, w, c)", "y = Mul(h, k)"]
    held = {"w": array(3, 4, 1, 1), "c": array(3), "k": array(3, 1, 1, seed=4)}
    folded = proven_fold(model("float[1, 4, 5, 5] x", body, held))
    assert np.array_equal(folded.constant("c"), (held["c"].astype("d") * held["k"].reshape(-1)).astype("f"))


def test_groups_of_a_transposed_convolution_stay_in_order() -> None:
    """coremltools permutes them: channel ``g*out/group + k`` of the output is scaled by its own number."""
    held = {"w": np.ones((4, 3, 1, 1), np.float32), "k": np.arange(1, 7, dtype=np.float32).reshape(6, 1, 1)}
    body = ["[linear] h = ConvTranspose <group = 2> (x, w)", "y = Mul(h, k)"]
    folded = proven_fold(model("float[1, 4, 3, 3] x", body, held))
    assert folded.operators == ["ConvTranspose"]
    wanted = np.array([[1, 2, 3]] * 2 + [[4, 5, 6]] * 2, np.float32)
    assert np.array_equal(folded.constant("w").reshape(4, 3), wanted)


def test_half_precision_data_with_single_precision_statistics_gives_half_precision_constants() -> None:
    """OnnxSlim and onnxscript give a float32 bias to a float16 convolution."""
    held = {"w": array(3, 4, 1, 1, dtype=np.float16), **statistics(3)}
    source = model("float16[1, 4, 5, 5] x", ["h = Conv(x, w)", norm("h", "y")], held, outputs="float16[] y")
    folded = proven_fold(source, reference=True)
    assert [folded.constant(name).dtype for name in folded.result.graph.node[0].input[1:]] == [np.float16] * 2


def test_a_convolution_with_an_empty_bias() -> None:
    body = ['[linear] h = Conv(x, w, "")', norm("h", "y")]
    folded = proven_fold(model("float[1, 4, 5, 5] x", body, {"w": array(3, 4, 1, 1), **statistics(3)}))
    assert folded.operators == ["Conv"]
    assert all(folded.result.graph.node[0].input)


def test_a_gemm_with_alpha_and_beta() -> None:
    """Attributes copied blindly apply them twice."""
    body = ["[linear] h = Gemm <alpha = 0.5, beta = 2.0> (x, w, c)", norm("h", "y")]
    folded = proven_fold(model("float[5, 4] x", body, {"w": array(4, 3), "c": array(3), **statistics(3)}))
    assert folded.operators == ["Gemm"]
    assert not {a.name for a in folded.result.graph.node[0].attribute} & {"alpha", "beta"}
