"""``affine -> Linear`` becomes ``Linear``. A Sigmoid before the norm leaves it no other way."""

from __future__ import annotations

import numpy as np
import pytest

from folding import Example, array, model, norm, only_fold, proven_fold, statistics

IMAGE = "float[1, 4, 5, 5] x"
START = ["r = Sigmoid(x)", norm("r", "n")]
CONSUMERS = {
    "conv": ("Conv(n, w)", (3, 4, 3, 3)),
    "conv-bias": ("Conv(n, w, c)", (3, 4, 3, 3)),
    "conv-groups": ("Conv <group = 2> (n, w)", (6, 2, 3, 3)),
    "conv-groups-bias": ("Conv <group = 2> (n, w, c)", (6, 2, 3, 3)),
    "conv-depthwise": ("Conv <group = 4> (n, w)", (8, 1, 3, 3)),
    "conv-strided": ("Conv <strides = [2, 2], dilations = [1, 2]> (n, w)", (3, 4, 2, 2)),
    "conv-valid": ('Conv <auto_pad = "VALID"> (n, w)', (3, 4, 3, 3)),
    "conv-transposed": ("ConvTranspose <pads = [2, 2, 2, 2]> (n, w)", (4, 3, 3, 3)),
    "conv-transposed-groups": ("ConvTranspose <group = 2, pads = [2, 2, 2, 2]> (n, w)", (4, 3, 3, 3)),
    "conv-transposed-dilated": ("ConvTranspose <dilations = [2, 1], pads = [2, 1, 3, 2]> (n, w)", (4, 3, 2, 2)),
}


@pytest.mark.parametrize("case", CONSUMERS)
def test_convolution(case: str) -> None:
    call, shape = CONSUMERS[case]
    held = {"w": array(*shape), **statistics(4)}
    if ", c" in call:
        held["c"] = array(shape[0] if "Transpose" not in call else shape[1])
    folded = proven_fold(model(IMAGE, [*START, f"[linear] y = {call}"], held))
    assert "BatchNormalization" not in folded.operators
    assert folded.decision.rules == ("fold_affine_into_consumer",)
    assert folded.decision.into == ("linear",)


MATRICES = {
    "gemm": ("5, 4", "Gemm(n, w)", (4, 3)),
    "gemm-transposed": ("5, 4", "Gemm <transB = 1, alpha = -0.5> (n, w)", (3, 4)),
    "gemm-transposed-input": ("4, 5", "Gemm <transA = 1> (n, w)", (4, 3)),
    "gemm-first": ("4, 5", "Gemm(w, n)", (3, 4)),
    "gemm-first-transposed": ("5, 4", "Gemm <transB = 1> (w, n)", (3, 4)),
    "matmul": ("5, 4", "MatMul(n, w)", (4, 3)),
    "matmul-first": ("4, 5", "MatMul(w, n)", (3, 4)),
    "matmul-batched": ("2, 5, 4", "MatMul(n, w)", (2, 4, 3)),
    "matmul-rank-3": ("2, 5, 4", "MatMul(n, w)", (4, 3)),
}


@pytest.mark.parametrize("bias", ["", "c"])
@pytest.mark.parametrize("case", MATRICES)
def test_matrix_product(case: str, bias: str) -> None:
    shape, call, weight = MATRICES[case]
    k = array(4, 1) if shape.startswith("4") else array(4)
    held = {"w": array(*weight), "k": k, "d": array(*k.shape, seed=3)}
    last = f"[linear] y = {call}"
    if bias:
        last = f"[linear] p = {call}\n[bias] y = Add(p, c)"
        held["c"] = array(1, seed=9)
    folded = proven_fold(
        model(f"float[{shape}] x", ["r = Sigmoid(x)", "[scale] s = Mul(r, k)", "n = Add(s, d)", last], held)
    )
    assert folded.decision.outcome == "folded"
    assert "linear" in folded.decision.into
    assert "Mul" not in folded.operators


@pytest.mark.parametrize("number", [np.inf, np.nan])
def test_refused_because_not_finite(number: float) -> None:
    held = {"w": array(3, 4, 1, 1), "k": np.array([1, number, 1, 1], np.float32).reshape(4, 1, 1)}
    folded = only_fold(model(IMAGE, ["r = Sigmoid(x)", "n = Mul(r, k)", "[linear] y = Conv(n, w)"], held))
    assert folded.refused == {"finite", "linear-producer"}


def test_refused_because_not_per_input_channel() -> None:
    body = ["r = Sigmoid(x)", "n = Mul(r, k)", "[linear] y = Conv(n, w)"]
    folded = proven_fold(model(IMAGE, body, {"w": array(3, 4, 1, 1), "k": array(5)}))
    assert folded.refused == {"per-input-channel", "linear-producer"}
    assert "4 input channels of Conv 'linear'" in folded.because("per-input-channel")


PADDED = {
    "conv": ("Conv <pads = [1, 1, 1, 1]> (n, w)", (3, 4, 3, 3)),
    "conv-one-side": ("Conv <pads = [0, 0, 0, 1]> (n, w)", (3, 4, 3, 3)),
    "conv-same": ('Conv <auto_pad = "SAME_UPPER"> (n, w)', (3, 4, 3, 3)),
    "transposed": ("ConvTranspose(n, w)", (4, 3, 3, 3)),
    "transposed-pads": ("ConvTranspose <pads = [2, 2, 2, 1]> (n, w)", (4, 3, 3, 3)),
    "transposed-strided": ("ConvTranspose <strides = [2, 2], pads = [2, 2, 2, 2]> (n, w)", (4, 3, 3, 3)),
    "transposed-dilated": ("ConvTranspose <dilations = [2, 2], pads = [2, 2, 2, 2]> (n, w)", (4, 3, 3, 3)),
}


@pytest.mark.parametrize("case", PADDED)
def test_refused_because_not_every_tap(case: str) -> None:
    call, shape = PADDED[case]
    folded = proven_fold(model(IMAGE, [*START, f"[linear] y = {call}"], {"w": array(*shape), **statistics(4)}))
    assert folded.refused == {"every-tap", "linear-producer", "does-not-pay"}


@pytest.mark.parametrize("case", PADDED)
def test_a_scale_needs_no_whole_taps(case: str) -> None:
    call, shape = PADDED[case]
    body = ["r = Sigmoid(x)", "n = Mul(r, k)", f"[linear] y = {call}"]
    assert proven_fold(model(IMAGE, body, {"w": array(*shape), "k": array(4, 1, 1)})).decision.into == ("linear",)


def test_refused_because_not_representable() -> None:
    held = {"w": array(3, 4, 1, 1, dtype=np.float16), "k": np.full((4, 1, 1), 60000, np.float16)}
    body = ["r = Sigmoid(x)", "n = Mul(r, k)", "[linear] y = Conv(n, w)"]
    folded = only_fold(model("float16[1, 4, 5, 5] x", body, held, outputs="float16[] y"))
    assert folded.refused == {"representable", "linear-producer"}


def test_refused_because_a_float16_input_channel_vanishes() -> None:
    """What is scaled down is large: the column counts as if it were not, beside the others of its row."""
    held = {"w": array(3, 4, 1, 1, dtype=np.float16), "k": np.array([1, 1e-6, 1, 1], np.float16).reshape(4, 1, 1)}
    body = ["r = Sigmoid(x)", "n = Mul(r, k)", "[linear] y = Conv(n, w)"]
    folded = only_fold(model("float16[1, 4, 5, 5] x", body, held, outputs="float16[] y"))
    assert folded.refused == {"representable", "linear-producer"}
    assert "least number of their type" in folded.because("representable")


def test_refused_because_the_joined_bias_is_not_representable() -> None:
    held = {
        "w": np.ones((3, 4, 1, 1), np.float16),
        "k": np.full((4, 1, 1), 16000, np.float16),
        "c": np.full(3, 16000, np.float16),
    }
    body = ["r = Sigmoid(x)", "[one] m = Mul(r, o)", "n = Add(m, k)", "[linear] y = Conv(n, w, c)"]
    folded = only_fold(model("float16[1, 4, 5, 5] x", body, held | {"o": np.float16(1)}, outputs="float16[] y"))
    assert np.isfinite(folded.constant("c")).all()


def test_a_weight_that_others_read_is_copied() -> None:
    body = [*START, "[linear] y = Conv(n, w)", "z = Conv(r, w)"]
    source = model(IMAGE, body, {"w": array(3, 4, 1, 1), **statistics(4)}, outputs="float[] y, float[] z")
    folded = proven_fold(source)
    assert folded.operators == ["Sigmoid", "Conv", "Conv"]


EXAMPLES = (
    Example(
        model("float[5, 4] x", ["r = Relu(x)", norm("r", "n"), "y = Gemm(n, w)"], {"w": array(4, 3), **statistics(4)})
    ),
)
