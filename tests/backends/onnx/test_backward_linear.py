"""Norms after Conv, ConvTranspose, Gemm and MatMul go into the operation before them."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from folding import array, model, norm, only_fold, proven_fold, statistics

CONVOLUTIONS = {
    "1d": ("1, 4, 9", (6, 4, 3), "pads = [1, 1]"),
    "2d": ("N, 4, 7, 6", (6, 4, 3, 3), "pads = [1, 1, 1, 1]"),
    "3d": ("1, 2, 5, 4, 6", (3, 2, 3, 3, 3), "pads = [1, 1, 1, 1, 1, 1]"),
    "2d-no-padding": ("1, 4, 7, 6", (6, 4, 3, 3), ""),
    "2d-uneven-padding": ("1, 4, 7, 6", (6, 4, 3, 3), "pads = [2, 0, 1, 1]"),
    "2d-same-upper": ("1, 4, 7, 6", (6, 4, 2, 3), 'auto_pad = "SAME_UPPER"'),
    "2d-same-lower": ("1, 4, 7, 6", (6, 4, 2, 3), 'auto_pad = "SAME_LOWER"'),
    "2d-valid": ("1, 4, 7, 6", (6, 4, 2, 3), 'auto_pad = "VALID"'),
    "2d-strided-dilated": ("1, 4, 9, 9", (6, 4, 3, 3), "strides = [2, 1], dilations = [1, 2]"),
    "1d-groups": ("1, 6, 9", (4, 3, 3), "group = 2, pads = [1, 1]"),
    "2d-groups": ("1, 6, 7, 6", (9, 2, 3, 3), "group = 3, pads = [1, 1, 1, 1]"),
    "3d-groups": ("1, 4, 5, 4, 6", (6, 2, 2, 2, 2), "group = 2"),
    "1d-depthwise": ("1, 5, 9", (5, 1, 3), "group = 5, pads = [1, 1]"),
    "2d-depthwise": ("1, 5, 7, 6", (5, 1, 3, 3), "group = 5, pads = [1, 1, 1, 1]"),
    "2d-depthwise-multiplied": ("1, 3, 7, 6", (6, 1, 3, 3), "group = 3"),
    "3d-depthwise": ("1, 3, 5, 4, 6", (3, 1, 2, 2, 2), "group = 3"),
    "2d-static-ones": ("1, 1, 1, 1", (1, 1, 1, 1), ""),
}
TRANSPOSED = {
    "1d": ("1, 4, 9", (4, 6, 3), "pads = [1, 1], strides = [2]"),
    "2d": ("1, 4, 5, 6", (4, 6, 3, 3), "strides = [2, 2], output_padding = [1, 0]"),
    "3d": ("1, 2, 3, 4, 3", (2, 3, 2, 2, 2), "strides = [2, 2, 2]"),
    "1d-groups": ("1, 4, 9", (4, 3, 3), "group = 2"),
    "2d-groups": ("1, 6, 5, 6", (6, 3, 3, 3), "group = 2, pads = [1, 1, 1, 1]"),
    "3d-groups": ("1, 4, 3, 4, 3", (4, 3, 2, 2, 2), "group = 2"),
    "2d-depthwise": ("1, 5, 5, 6", (5, 1, 3, 3), "group = 5, dilations = [2, 1]"),
    "2d-same-upper": ("1, 4, 5, 6", (4, 6, 3, 3), 'auto_pad = "SAME_UPPER", strides = [2, 2]'),
    "2d-output-shape": ("1, 4, 5, 6", (4, 6, 3, 3), "output_shape = [10, 12], strides = [2, 2]"),
}
ALL = [("Conv", case) for case in CONVOLUTIONS] + [("ConvTranspose", case) for case in TRANSPOSED]


@pytest.mark.parametrize("bias", ["", ", c", ', ""'], ids=["no-bias", "bias", "empty-bias"])
@pytest.mark.parametrize(("op", "case"), ALL, ids=["-".join(pair) for pair in ALL])
def test_convolution(op: str, case: str, bias: str) -> None:
    shape, weight, attributes = (CONVOLUTIONS if op == "Conv" else TRANSPOSED)[case]
    groups = int(attributes.split("group = ")[1].split(",")[0]) if "group = " in attributes else 1
    channels = weight[0] if op == "Conv" else weight[1] * groups
    constants = {"w": array(*weight), **statistics(channels)}
    if bias == ", c":
        constants["c"] = array(channels, seed=3)
    body = [f"[linear] h = {op} <{attributes}> (x, w{bias})", norm("h", "y")]
    folded = proven_fold(model(f"float[{shape}] x", body, constants))
    assert folded.operators == [op]
    assert folded.decision.outcome == "folded"
    assert folded.decision.into == ("linear",)
    assert folded.decision.rules == ("fold_affine_into_producer",)


GEMMS = {
    "plain": ("5, 4", (4, 3), "", None),
    "transposed-b": ("5, 4", (3, 4), "transB = 1", None),
    "transposed-a": ("4, 5", (4, 3), "transA = 1", None),
    "transposed-both": ("4, 5", (3, 4), "transA = 1, transB = 1", None),
    "alpha-beta": ("5, 4", (4, 3), "alpha = -2.0, beta = 0.5", (3,)),
    "beta-zero": ("5, 4", (4, 3), "beta = 0.0", (3,)),
    "alpha-no-bias": ("5, 4", (4, 3), "alpha = 3.0, beta = 0.5", None),
    "bias-scalar": ("5, 4", (4, 3), "beta = 2.0", ()),
    "bias-one": ("5, 4", (4, 3), "", (1,)),
    "bias-1xN": ("5, 4", (4, 3), "", (1, 3)),
    "bias-Mx1": ("5, 4", (4, 3), "", (5, 1)),
    "bias-MxN": ("5, 4", (4, 3), "beta = -1.0", (5, 3)),
    "bias-1x1": ("5, 4", (4, 3), "", (1, 1)),
    "one-row": ("1, 4", (4, 3), "", (1, 3)),
    "one-column": ("5, 4", (4, 1), "", (5, 1)),
    "free-batch": ("N, 4", (4, 3), "", (3,)),
}


@pytest.mark.parametrize("case", GEMMS)
def test_gemm(case: str) -> None:
    shape, weight, attributes, bias = GEMMS[case]
    channels = weight[0] if "transB" in attributes else weight[1]
    constants = {"w": array(*weight), **statistics(channels)}
    operands = "x, w"
    if bias is not None:
        constants["c"] = array(*bias, seed=3)
        operands += ", c"
    body = [f"[linear] h = Gemm <{attributes}> ({operands})", norm("h", "y")]
    folded = proven_fold(model(f"float[{shape}] x", body, constants))
    assert folded.operators == ["Gemm"]
    assert folded.decision.into == ("linear",)


@pytest.mark.parametrize("attributes", ["", "transA = 1", "transB = 1", "transA = 1, transB = 1, alpha = 2.0"])
@pytest.mark.parametrize("bias", [None, (), (3,), (5, 1), (5, 3)])
def test_gemm_with_a_constant_first_operand(attributes: str, bias: tuple[int, ...] | None) -> None:
    """Its rows are the output channels: a map along axis 0 folds, one along axis 1 does not."""
    constants = {
        "w": array(*((4, 5) if "transA" in attributes else (5, 4))),
        "k": array(5, 1),
        "d": array(5, 1, seed=2),
    }
    if bias is not None:
        constants["c"] = array(*bias, seed=3)
    shape = "3, 4" if "transB" in attributes else "4, 3"
    operands = "w, x" if bias is None else "w, x, c"
    body = [f"[linear] h = Gemm <{attributes}> ({operands})", "[scale] t = Mul(h, k)", "y = Add(t, d)"]
    folded = proven_fold(model(f"float[{shape}] x", body, constants))
    assert folded.operators == ["Gemm"]
    assert folded.decision.into == ("linear",)


def test_gemm_with_a_constant_first_operand_and_the_norm_along_the_other_axis() -> None:
    body = ["[linear] h = Gemm(w, x)", norm("h", "y")]
    folded = proven_fold(model("float[4, 5] x", body, {"w": array(5, 4), **statistics(5)}))
    assert folded.operators == ["Gemm", "BatchNormalization"]
    assert folded.refused == {"per-output-channel", "not-output"}


MATMULS = {
    "matrix": ("5, 4", (4, 3), "N", (3,)),
    "batched-input": ("2, 5, 4", (4, 3), "N", (3,)),
    "rank-4-input": ("2, 6, 5, 4", (4, 3), "N", (3,)),
    "free-batch": ("B, S, 4", (4, 3), "N", (3,)),
    "vector-input": ("4", (4, 3), "N", (3,)),
    "batched-weight": ("2, 5, 4", (2, 4, 3), "BN", (2, 1, 3)),
    "batched-weight-common-scale": ("2, 5, 4", (2, 4, 3), "N", (3,)),
    "batched-weight-batch-scale": ("2, 5, 4", (2, 4, 3), "B", (2, 1, 1)),
    "twice-batched-weight": ("2, 3, 5, 4", (2, 3, 4, 6), "BBN", (2, 3, 1, 6)),
    "weight-spreads-input": ("5, 4", (2, 4, 3), "BN", (2, 1, 3)),
    "input-spreads-weight": ("2, 5, 4", (1, 4, 3), "N", (3,)),
}


@pytest.mark.parametrize("case", MATMULS)
def test_scale_after_matmul(case: str) -> None:
    shape, weight, _, scale = MATMULS[case]
    body = ["[linear] h = MatMul(x, w)", "y = Mul(h, k)"]
    folded = proven_fold(model(f"float[{shape}] x", body, {"w": array(*weight), "k": array(*scale, seed=2)}))
    assert folded.operators == ["MatMul"]
    assert folded.decision.into == ("linear",)


@pytest.mark.parametrize("case", MATMULS)
def test_scale_after_matmul_and_add(case: str) -> None:
    shape, weight, _, scale = MATMULS[case]
    body = ["[linear] h = MatMul(x, w)", "[bias] t = Add(c, h)", "[scale] u = Mul(k, t)", "y = Sub(u, d)"]
    constants = {
        "w": array(*weight),
        "k": array(*scale, seed=2),
        "c": array(*scale, seed=3),
        "d": array(*scale, seed=4),
    }
    folded = proven_fold(model(f"float[{shape}] x", body, constants))
    assert sorted(folded.operators) in (["Add", "MatMul"], ["MatMul", "Sub"])
    assert folded.decision.outcome == "folded"


@pytest.mark.parametrize("weight", [(5, 4), (2, 5, 4)], ids=["matrix", "batched"])
@pytest.mark.parametrize("shape", ["4, 3", "2, 4, 3"])
def test_matmul_with_a_constant_first_operand(weight: tuple[int, ...], shape: str) -> None:
    body = ["[linear] h = MatMul(w, x)", "[scale] t = Mul(h, k)", "y = Add(t, d)"]
    constants = {"w": array(*weight), "k": array(5, 1, seed=2), "d": array(5, 1, seed=3)}
    folded = proven_fold(model(f"float[{shape}] x", body, constants))
    assert folded.operators == ["MatMul", "Add"]
    assert folded.decision.into == ("linear",)


def test_norm_over_the_rows_of_a_constant_first_operand() -> None:
    """[2, 5, 3] has its channels on axis 1, which is the output axis of W @ x."""
    body = ["[linear] h = MatMul(w, x)", norm("h", "y")]
    folded = proven_fold(model("float[2, 4, 3] x", body, {"w": array(5, 4), **statistics(5)}))
    assert folded.operators == ["MatMul", "Add"]


def test_norm_after_matmul_leaves_its_shift_as_one_addition() -> None:
    body = ["[linear] h = MatMul(x, w)", "[scale] t = Mul(h, k)", "y = Add(t, d)"]
    folded = proven_fold(model("float[2, 5, 4] x", body, {"w": array(4, 3), "k": array(3, seed=2), "d": array(3)}))
    assert folded.operators == ["MatMul", "Add"]
    assert folded.decision.outcome == "folded"


def test_norm_after_matmul_of_matrices_makes_it_a_gemm() -> None:
    body = ["[linear] h = MatMul(x, w)", norm("h", "y")]
    folded = proven_fold(model("float[N, 4] x", body, {"w": array(4, 3), **statistics(3)}))
    assert folded.operators == ["Gemm"]
    assert folded.decision.into == ("linear",)


@pytest.mark.parametrize("shape", ["2, 5, 3", "2, 5, K", "B, S, K", "B, S, 3"])
def test_norm_after_a_flattened_matmul(shape: str) -> None:
    """What flattens the product may move before it only where the size of its rows is known."""
    body = ["[linear] h = MatMul(x, w)", "r = Reshape(h, to)", norm("r", "y")]
    source = model(f"float[{shape}] x", body, {"w": array(3, 4), "to": np.array([-1, 4]), **statistics(4)})
    folded = proven_fold(source, feeds={"x": array(2, 5, 3)})
    assert folded.operators == (["MatMul", "Add", "Reshape"] if "K" in shape else ["Reshape", "Gemm"])


@pytest.mark.parametrize("scale", [(2, 1), (3,), (2, 3)])
def test_a_vector_times_a_batch_of_matrices(scale: tuple[int, ...]) -> None:
    """The vector has no rows, so the batch is the product's first axis, not its third from the end."""
    body = ["h = MatMul(x, w)", "[scale] t = Mul(h, k)", "[after] y = MatMul(t, u)"]
    proven_fold(model("float[4] x", body, {"w": array(2, 4, 3), "k": array(*scale), "u": array(3, 5)}))


def test_a_shift_of_a_vector_before_a_batch_of_matrices() -> None:
    body = ["r = Sigmoid(x)", "[scale] t = Mul(r, k)", "s = Add(t, k)", "[linear] y = MatMul(s, w)"]
    folded = proven_fold(model("float[4] x", body, {"w": array(2, 4, 3), "k": array(4)}))
    assert "Mul" in folded.operators


def test_norm_after_matmul_and_add() -> None:
    body = ["[linear] h = MatMul(x, w)", "[bias] t = Add(h, c)", norm("t", "y")]
    folded = proven_fold(model("float[5, 4] x", body, {"w": array(4, 3), "c": array(3, seed=2), **statistics(3)}))
    assert folded.operators == ["MatMul", "Add"]
    assert set(folded.decision.into) == {"linear", "bias"}


@pytest.mark.parametrize("op", ["Conv", "Gemm"])
def test_scale_alone_adds_no_bias(op: str) -> None:
    shape, weight, scale = ("1, 4, 5, 5", (3, 4, 1, 1), (3, 1, 1)) if op == "Conv" else ("5, 4", (4, 3), (3,))
    body = [f"[linear] h = {op}(x, w)", "y = Mul(h, k)"]
    folded = proven_fold(model(f"float[{shape}] x", body, {"w": array(*weight), "k": array(*scale, seed=2)}))
    assert folded.operators == [op]
    assert [name for name in folded.result.graph.node[0].input if name] == ["x", "w"]


@pytest.mark.parametrize("zeros", ["all", "some"])
def test_a_gamma_of_zero(zeros: str) -> None:
    constants = {"w": array(3, 4, 1, 1), **statistics(3)}
    constants["s"][: 3 if zeros == "all" else 1] = 0
    folded = proven_fold(model("float[1, 4, 5, 5] x", ["[linear] h = Conv(x, w)", norm("h", "y")], constants))
    assert folded.operators == ["Conv"]


KINDS = {"float": np.float32, "float16": np.float16, "double": np.float64, "bfloat16": ml_dtypes.bfloat16}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("op", ["Conv", "MatMul", "Gemm"])
def test_every_floating_type(op: str, kind: str) -> None:
    dtype = KINDS[kind]
    shape, weight = ("1, 4, 5, 5", (3, 4, 1, 1)) if op == "Conv" else ("5, 4", (4, 3))
    constants = {"w": array(*weight, dtype=dtype), **statistics(3, dtype=dtype)}
    body = [f"[linear] h = {op}(x, w)", norm("h", "y")]
    source = model(f"{kind}[{shape}] x", body, constants, outputs=f"{kind}[] y", opset=22 if kind == "bfloat16" else 17)
    folded = proven_fold(source, reference=kind in ("double", "bfloat16"))
    assert folded.operators == (["Gemm" if op == "MatMul" else op])
    assert {t.data_type for t in folded.result.graph.initializer} == {source.graph.input[0].type.tensor_type.elem_type}


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
@pytest.mark.parametrize("op", ["Conv", "MatMul"])
def test_half_precision_data_with_single_precision_statistics(op: str, kind: str) -> None:
    """BatchNormalization-15 allows it; the result keeps the type of the data."""
    dtype = KINDS[kind]
    shape, weight = ("1, 4, 5, 5", (3, 4, 1, 1)) if op == "Conv" else ("5, 4", (4, 3))
    constants = {"w": array(*weight, dtype=dtype), **statistics(3)}
    body = [f"[linear] h = {op}(x, w)", norm("h", "y")]
    source = model(f"{kind}[{shape}] x", body, constants, outputs=f"{kind}[] y", opset=22 if kind == "bfloat16" else 17)
    folded = proven_fold(source, reference=True)
    assert folded.operators == (["Gemm" if op == "MatMul" else op])
    assert {t.data_type for t in folded.result.graph.initializer} == {source.graph.input[0].type.tensor_type.elem_type}


def test_half_precision_scale_with_single_precision_statistics() -> None:
    constants = {"w": array(3, 4, 1, 1, dtype=np.float16), **statistics(3)}
    constants |= {name: constants[name].astype(np.float16) for name in "sb"}
    source = model(
        "float16[1, 4, 5, 5] x", ["[linear] h = Conv(x, w)", norm("h", "y")], constants, outputs="float16[] y"
    )
    assert proven_fold(source, reference=True).operators == ["Conv"]


def test_a_variance_and_epsilon_that_half_precision_cannot_add() -> None:
    """Four tools make NaN of it: in float16, 0 + 1e-9 is 0."""
    constants = {"w": array(2, 4, 1, 1, dtype=np.float16), **statistics(2, dtype=np.float16)}
    constants["v"][:] = 0
    constants["s"][:] = 1e-4
    body = [
        "[linear] h = Conv(x, w)",
        "[y_norm] y = BatchNormalization <epsilon = 0.000000001> (h, s, b, m, v)",
    ]
    folded = only_fold(model("float16[1, 4, 5, 5] x", body, constants, outputs="float16[] y"))
    assert folded.operators == ["Conv"]
    wanted = constants["w"].astype(np.float64) * (np.float64(np.float16(1e-4)) / np.float64(np.float32(1e-9)) ** 0.5)
    assert np.array_equal(folded.constant("w"), wanted.astype(np.float16))


def test_many_folds_into_one_weight_round_once() -> None:
    """Each factor alone is a rounding in float16; their product is exact."""
    scales = {"k1": np.float16(3), "k2": np.float16(1 / 3), "k3": np.float16(7)}
    constants = {"w": array(3, 4, dtype=np.float16)} | {
        name: np.full(4, value, np.float16) for name, value in scales.items()
    }
    body = ["[linear] h = MatMul(x, w)", "a = Mul(h, k1)", "c = Mul(a, k2)", "y = Mul(c, k3)"]
    folded = only_fold(model("float16[5, 3] x", body, constants, outputs="float16[] y"))
    wanted = constants["w"].astype(np.float64) * 3 * np.float64(np.float16(1 / 3)) * 7
    assert np.array_equal(folded.constant("w"), wanted.astype(np.float16))
