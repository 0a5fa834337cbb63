"""Models as the exporters of other frameworks write them; docs/frameworks.md says what becomes of each."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from folding import Folded, array, model, norm, only_fold, proven_fold, statistics

PICTURE = "float[2, 8, 8, 4] x"
IN, OUT = "Transpose <perm = [0, 3, 1, 2]>", "Transpose <perm = [0, 2, 3, 1]>"
KERNEL = {"w": array(6, 4, 3, 3)}
MAP = {"k": array(6), "d": array(6, seed=3)}
HEAD = [f"a = {IN} (x)", 'c = Conv <auto_pad = "SAME_UPPER"> (a, w)', f"o = {OUT} (c)"]
ROOT = {**statistics(6), "eps": np.float32(1e-3)}
RSQRT = [
    "ve = Add(v, eps)",
    "sd = Sqrt(ve)",
    "rs = Reciprocal(sd)",
    "k = Mul(rs, s)",
    "t = Mul(o, k)",
    "mk = Mul(m, k)",
    "d = Sub(b, mk)",
    "n = Add(t, d)",
    "y = Relu(n)",
]
KERAS = {
    "fused": ([*HEAD[:2], norm("c", "n"), f"o = {OUT} (n)", "y = Relu(o)"], {**KERNEL, **statistics(6)}),
    "fused-behind-a-bias": (
        [*HEAD, "p = Add(o, bias)", f"q = {IN} (p)", norm("q", "n"), f"y = {OUT} (n)"],
        {**KERNEL, **statistics(6), "bias": array(6, seed=9)},
    ),
    "mul-add": ([*HEAD, "t = Mul(o, k)", "n = Add(t, d)", "y = Relu(n)"], {**KERNEL, **MAP}),
    "bias-mul-add": (
        [*HEAD, "p = Add(o, bias)", "t = Mul(p, k)", "n = Add(t, d)", "y = Relu(n)"],
        {**KERNEL, **MAP, "bias": array(6, seed=9)},
    ),
    "rsqrt": ([*HEAD, *RSQRT], {**KERNEL, **ROOT}),
    "depthwise": (
        [
            f"a = {IN} (x)",
            "c = Conv <group = 4> (a, w)",
            f"o = {OUT} (c)",
            "t = Mul(o, k)",
            "n = Add(t, d)",
            "y = Relu(n)",
        ],
        {"w": array(4, 1, 3, 3), "k": array(4), "d": array(4, seed=3)},
    ),
    "transposed": (
        [
            f"a = {IN} (x)",
            "c = ConvTranspose <strides = [2, 2]> (a, w)",
            f"o = {OUT} (c)",
            "t = Mul(o, k)",
            "n = Add(t, d)",
            "y = Relu(n)",
        ],
        {"w": array(4, 6, 3, 3), **MAP},
    ),
    "pooled": (
        [*HEAD, "g = ReduceMean <axes = [1, 2], keepdims = 0> (o)", "t = Mul(g, k)", "n = Add(t, d)", "y = Relu(n)"],
        {**KERNEL, **MAP},
    ),
    "behind-relu": (
        [*HEAD, "r = Relu(o)", "t = Mul(r, k)", "n = Add(t, d)", f"q = {IN} (n)", "h = Conv(q, u)", f"y = {OUT} (h)"],
        {**KERNEL, **MAP, "u": array(3, 6, 3, 3)},
    ),
    "dense": (
        ["h = MatMul(x, f)", "p = Add(h, g)", "t = Mul(p, k)", "n = Add(t, d)", "y = Relu(n)"],
        {"f": array(4, 6), "g": array(6, seed=5), **MAP},
    ),
    "before-flatten": (
        [
            f"a = {IN} (x)",
            "c = Conv(a, w)",
            f"o = {OUT} (c)",
            "r = Relu(o)",
            "t = Mul(r, k)",
            "n = Add(t, d)",
            "q = Reshape(n, sizes)",
            "h = MatMul(q, f)",
            "y = Add(h, g)",
        ],
        {**KERNEL, **MAP, "sizes": np.array([-1, 216]), "f": array(216, 5), "g": array(5)},
    ),
    "conv1d": (
        [
            "u = Unsqueeze(x, one)",
            f"a = {IN} (u)",
            "c = Conv(a, w)",
            f"o = {OUT} (c)",
            "q = Squeeze(o, one)",
            "t = Mul(q, k)",
            "n = Add(t, d)",
            "y = Relu(n)",
        ],
        {"one": np.array([1]), "w": array(6, 4, 1, 3), **MAP},
    ),
}


@pytest.mark.parametrize("name", KERAS)
def test_keras(name: str) -> None:
    body, constants = KERAS[name]
    x = "float[2, 8, 4] x" if name == "conv1d" else "float[2, 4] x" if name == "dense" else PICTURE
    folded = proven_fold(model(x, body, constants))
    assert {decision.outcome for decision in folded.decisions.values()} == {"folded"}
    assert not {"BatchNormalization", "Mul", "Sqrt", "Reciprocal", "Sub"} & set(folded.operators)


def test_names_with_slashes_and_colons_are_sites() -> None:
    source = model(PICTURE, KERAS["fused"][0], KERAS["fused"][1])
    bn = next(node for node in source.graph.node if node.op_type == "BatchNormalization")
    bn.name = "StatefulPartitionedCall/model/bn/FusedBatchNormV3:0"
    assert only_fold(source).decision.site == bn.name


def test_keras_norm_before_a_padded_convolution_stays_where_padding_cannot_have_it() -> None:
    body = [
        "r = Sigmoid(x)",
        "t = Mul(r, k)",
        "n = Add(t, d)",
        f"a = {IN} (n)",
        'c = Conv <auto_pad = "SAME_UPPER"> (a, w)',
    ]
    held = {**KERNEL, "k": array(4), "d": array(4, seed=3)}
    folded = proven_fold(model(PICTURE, [*body, f"y = {OUT} (c)"], held))
    assert "Mul" not in folded.operators
    assert folded.operators.count("Add") == 1


LAYER_NORM = [
    "mu = ReduceMean <axes = [-1]> (x)",
    "e = Sub(x, mu)",
    "sq = Mul(e, e)",
    "va = ReduceMean <axes = [-1]> (sq)",
    "ve = Add(va, eps)",
    "sd = Sqrt(ve)",
    "rs = Reciprocal(sd)",
    "q = Mul(rs, s)",
    "t = Mul(x, q)",
    "mq = Mul(mu, q)",
    "u = Sub(b, mq)",
    "n = Add(t, u)",
    "h = MatMul(n, f)",
    "y = Add(h, g)",
]


def test_keras_layer_norm_of_products() -> None:
    """``x (rsqrt(v) s) + (b - m rsqrt(v) s)`` is one operator whose scale and bias the product takes."""
    held = {"eps": np.float32(1e-3), "s": array(4), "b": array(4, seed=2), "f": array(4, 3), "g": array(3)}
    folded = proven_fold(model("float[2, 5, 4] x", LAYER_NORM, held))
    assert folded.operators == ["LayerNormalization", "MatMul", "Add"]
    assert folded.decision.outcome == "part-folded"


def mxnet(opset: int, attributes: str = "") -> Folded:
    """Conv -> BatchNormalization with ``fix_gamma``, weights listed among the inputs as IR version 3 wants."""
    held = {
        "w": array(6, 4, 3, 3),
        "gamma": np.ones(6, np.float32),
        "beta": array(6),
        "mean": array(6, seed=2),
        "variance": np.abs(array(6, seed=3)),
    }
    window = "kernel_shape = [3, 3], pads = [1, 1, 1, 1], strides = [1, 1], dilations = [1, 1], group = 1"
    body = [
        f"c = Conv <{window}> (x, w)",
        f"[bn] n = BatchNormalization <epsilon = 0.001, momentum = 0.9{attributes}> (c, gamma, beta, mean, variance)",
        "y = Relu(n)",
    ]
    source = model("float[2, 4, 8, 8] x", body, held, opset=opset, ir_version=3 if opset < 9 else 4)
    source.graph.input.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, values.shape) for name, values in held.items()
    )
    return proven_fold(source) if opset < 9 else only_fold(source)


@pytest.mark.parametrize(("opset", "attributes"), [(7, ""), (7, ", spatial = 1"), (8, "")])
def test_mxnet(opset: int, attributes: str) -> None:
    folded = mxnet(opset, attributes)
    assert folded.operators == ["Conv", "Relu"]
    assert folded.decision.site == "bn"


def test_mxnet_weights_that_a_caller_may_override_stay() -> None:
    """From IR version 4 on, an initializer that is an input too is a default value."""
    assert mxnet(9).refused == {"not-overridable"}


def test_mxnet_norm_on_the_data_stays_before_a_padded_convolution() -> None:
    held = {"w": array(6, 4, 3, 3), **statistics(4)}
    body = [norm("x", "n"), "y = Conv <pads = [1, 1, 1, 1]> (n, w)"]
    folded = proven_fold(model("float[2, 4, 8, 8] x", body, held, opset=9))
    assert folded.refused == {"linear-producer", "every-tap", "does-not-pay"}


ROWS = "float[3, 4] x"
LEARN = '"ai.onnx.ml" : 3'
SCALER = "[scaler] s = ai.onnx.ml.Scaler <offset = [1.0, -2.0, 0.5, 3.0], scale = [0.5, 2.0, 1.0, -0.25]>"
LINEAR = {"w": array(4, 3), "c": array(3)}


def learned(body: list[str], x: str = ROWS, **constants: np.ndarray) -> onnx.ModelProto:
    return model(x, body, constants, imports=LEARN)


def test_a_scaler_goes_into_a_gemm() -> None:
    folded = proven_fold(learned([f"{SCALER} (x)", "[linear] y = Gemm(s, w, c)"], **LINEAR))
    assert folded.operators == ["Gemm"]
    assert folded.decision.norm == "Scaler"
    assert folded.decision.into == ("linear",)


def test_a_scaler_goes_into_a_product() -> None:
    """How skl2onnx writes a layer of an MLPClassifier."""
    folded = proven_fold(learned([f"{SCALER} (x)", "[linear] h = MatMul(s, w)", "y = Add(h, c)"], **LINEAR))
    assert folded.operators == ["MatMul", "Add"]


def test_a_scaler_of_one_number() -> None:
    body = ["s = ai.onnx.ml.Scaler <offset = [1.0], scale = [0.5]> (x)", "y = Gemm(s, w, c)"]
    assert proven_fold(learned(body, **LINEAR)).operators == ["Gemm"]


def test_a_scaler_before_a_regressor_stays() -> None:
    body = [f"{SCALER} (x)", "y = ai.onnx.ml.LinearRegressor <coefficients = [1.0, 2.0, 3.0, 4.0]> (s)"]
    folded = proven_fold(learned(body))
    assert folded.refused == {"linear-producer", "linear-consumer"}


@pytest.mark.parametrize("kind", ["int64", "double"])
def test_a_scaler_that_also_casts_stays(kind: str) -> None:
    folded = proven_fold(learned([f"{SCALER} (x)", "y = Gemm(s, w, c)"], f"{kind}[3, 4] x", **LINEAR))
    assert folded.refused == {"floating-point"}


@pytest.mark.parametrize(
    ("numbers", "premise"), [("offset = [1.0, 2.0], scale = [0.5]", "well-formed"), ("scale = [0.5]", "well-formed")]
)
def test_a_scaler_that_is_not_well_formed_stays(numbers: str, premise: str) -> None:
    body = [f"s = ai.onnx.ml.Scaler <{numbers}> (x)", "y = Gemm(s, w, c)"]
    assert only_fold(learned(body, **LINEAR)).refused == {premise}


@pytest.mark.parametrize("attribute", ["offset", "scale"])
def test_a_scaler_by_a_number_that_is_none_stays(attribute: str) -> None:
    source = learned([f"{SCALER} (x)", "y = Gemm(s, w, c)"], **LINEAR)
    changed = next(one for one in source.graph.node[0].attribute if one.name == attribute)
    changed.floats[1] = np.inf
    assert only_fold(source).refused == {"finite"}


def test_standardisation_in_double_goes_into_the_product() -> None:
    """What skl2onnx writes for a StandardScaler in float64, then a layer of an MLPClassifier."""
    body = ["e = Sub(x, m)", "[scale] s = Div(e, k)", "h = MatMul(s, w)", "p = Add(h, c)", "y = Relu(p)"]
    held = {"m": array(4), "k": array(4, seed=4), **LINEAR}
    folded = proven_fold(
        model("double[3, 4] x", body, {name: k.astype(np.float64) for name, k in held.items()}, outputs="double[] y")
    )
    assert folded.operators == ["MatMul", "Add", "Relu"]


def test_a_normalizer_is_no_affine_map() -> None:
    folded = proven_fold(learned(['s = ai.onnx.ml.Normalizer <norm = "L2"> (x)', "y = Gemm(s, w, c)"], **LINEAR))
    assert folded.operators == ["Normalizer", "Gemm"]
    assert not folded.decisions
