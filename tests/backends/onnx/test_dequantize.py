"""Quantised models from elsewhere: the networks in floating point that they stand for, and what is found in them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import numpy_helper, parser

from normfold.backends.onnx.dequantize import dequantize, quantization_of
from normfold.errors import ModelFileError

STEP = 0.05
MICROSOFT = "com.microsoft"


def held(channels: int = 4) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(3)
    return {
        "s": np.float32(STEP),
        "z": np.uint8(120),
        "zero": np.uint8(0),
        "six": np.float32(6 / 255),
        "unit": np.float32(1 / 256),
        "w": generator.integers(-127, 128, (channels, channels, 3, 3)).astype(np.int8),
        "m": generator.integers(-127, 128, (channels, channels)).astype(np.int8),
        "ws": generator.uniform(0.001, 0.002, channels).astype(np.float32),
        "wz": np.zeros(channels, np.int8),
        "one": np.float32(0.01),
        "onez": np.int8(3),
        "b": generator.integers(-2000, 2000, channels).astype(np.int32),
        "bs": np.float32(0.0001),
        "low": generator.integers(90, 130, (1, channels, 1, 1)).astype(np.uint8),
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64),
        "size": np.array([0, -1], np.int64),
        "yes": np.array([True, False, True, True]),
    }


def model(body: str, x: str = "float[2, 4, 6, 6]", y: str = "float[N, M, P, Q]", **more: np.ndarray) -> onnx.ModelProto:
    head = f'<ir_version: 8, opset_import: ["" : 17, "{MICROSOFT}" : 1]> case ({x} x) => ({y} y)'
    proto = parser.parse_model(f"{head} {{ {body} }}")
    read = {name for node in proto.graph.node for name in node.input}
    constants = held() | more
    proto.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items() if name in read
    )
    return proto


def dequantized(proto: onnx.ModelProto) -> onnx.ModelProto:
    rewritten = ir.from_proto(proto)
    dequantize(rewritten)
    result = ir.to_proto(rewritten)
    onnx.checker.check_model(result, full_check=True)
    return result


def run(proto: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(proto.SerializeToString(), options).run(None, {"x": x})[0]


def sample(*shape: int) -> np.ndarray:
    return np.random.default_rng(7).uniform(-5, 5, shape or (2, 4, 6, 6)).astype(np.float32)


def operators(proto: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in proto.graph.node)


def stored(proto: onnx.ModelProto, op: str, slot: int) -> np.ndarray:
    node = next(node for node in proto.graph.node if node.op_type == op)
    return next(numpy_helper.to_array(t) for t in proto.graph.initializer if t.name == node.input[slot])


QDQ = """xq = QuantizeLinear(x, s, z) xd = DequantizeLinear(xq, s, z)
    v = DequantizeLinear <axis = 0> (w, ws, wz) bd = DequantizeLinear(b, bs)
    c = Conv <pads = [1, 1, 1, 1]> (xd, v, bd)
    """


AGAIN = "cq = QuantizeLinear(c, s, z) d = DequantizeLinear(cq, s, z)"


def test_the_weights_are_what_their_codes_stand_for():
    result = dequantized(model(f"{QDQ} cq = QuantizeLinear(c, s, z) y = DequantizeLinear(cq, s, z)"))
    constants = held()
    assert operators(result) - Counter({"Identity": 1}) == {"Conv": 1}
    wanted = constants["w"].astype(np.float32) * constants["ws"].reshape(4, 1, 1, 1)
    assert np.array_equal(stored(result, "Conv", 1), wanted)
    assert np.array_equal(stored(result, "Conv", 2), constants["b"].astype(np.float32) * constants["bs"])


@pytest.mark.parametrize(
    ("after", "wanted"),
    [
        ("cq = QuantizeLinear(c, s, zero) y = DequantizeLinear(cq, s, zero)", "Relu"),
        ("cq = QuantizeLinear(c, six, zero) y = DequantizeLinear(cq, six, zero)", "Clip"),
        ("r = Relu(c) cq = QuantizeLinear(r, s, zero) y = DequantizeLinear(cq, s, zero)", "Relu"),
        (
            "r = Sigmoid(c) p = Identity(r) cq = QuantizeLinear(p, s, zero) y = DequantizeLinear(cq, s, zero)",
            "",
        ),
        ("cq = QuantizeLinear(c, s, z) y = DequantizeLinear(cq, s, z)", ""),
    ],
)
def test_a_quantiser_that_starts_at_zero_was_an_activation(after, wanted):
    result = dequantized(model(QDQ + after))
    found = {op: count for op, count in operators(result).items() if op in ("Relu", "Clip")}
    assert found == ({wanted: 1} if wanted else {})


def test_an_input_that_is_quantised_from_zero_stays_whole():
    body = QDQ.replace("xq = QuantizeLinear(x, s, z) xd = DequantizeLinear(xq, s, z)", "")
    text = f"xq = QuantizeLinear(x, s, zero) xd = DequantizeLinear(xq, s, zero) {body} y = Identity(c)"
    assert "Relu" not in operators(dequantized(model(text)))


LINEAR = "s, z, w, ws, wz, s, z, b"
WINDOW = "kernel_shape = [3, 3], pads = [1, 1, 1, 1]"
TO_LAST, TO_FIRST = "Transpose <perm = [0, 2, 3, 1]>", "Transpose <perm = [0, 3, 1, 2]>"
OWN = f"{MICROSOFT}.QLinearConv"
ON_CODES = {
    "QLinearConv": (f"yq = QLinearConv <{WINDOW}> (xq, {LINEAR})", "Conv"),
    "QLinearConv channels last": (
        f"t = {TO_LAST} (xq) c = {OWN} <{WINDOW}, channels_last = 1> (t, {LINEAR}) yq = {TO_FIRST} (c)",
        "Conv",
    ),
    "QLinearMatMul": ("yq = QLinearMatMul(xq, s, z, m6, one, onez, s, z)", "MatMul"),
    "QLinearAdd": (f"yq = {MICROSOFT}.QLinearAdd(xq, s, z, low, s, z, s, z)", "Add"),
    "QLinearMul": (f"yq = {MICROSOFT}.QLinearMul(xq, s, z, low, s, z, s, z)", "Mul"),
    "QLinearSigmoid": (f"yq = {MICROSOFT}.QLinearSigmoid(xq, s, z, s, z)", "Sigmoid"),
    "QLinearLeakyRelu": (f"yq = {MICROSOFT}.QLinearLeakyRelu <alpha = 0.25> (xq, s, z, s, z)", "LeakyRelu"),
    "QLinearSoftmax": (f"yq = {MICROSOFT}.QLinearSoftmax <axis = 1, opset = 13> (xq, s, z, s, z)", "Softmax"),
    "QLinearAveragePool": (
        f"yq = {MICROSOFT}.QLinearAveragePool <kernel_shape = [2, 2], strides = [2, 2]> (xq, s, z, s, z)",
        "AveragePool",
    ),
    "QLinearGlobalAveragePool": (f"yq = {MICROSOFT}.QLinearGlobalAveragePool(xq, s, z, s, z)", "GlobalAveragePool"),
    "QLinearConcat": (f"yq = {MICROSOFT}.QLinearConcat <axis = 1> (s, z, xq, s, z, xq, s, z)", "Concat"),
    "NhwcMaxPool": (
        f"t = {TO_LAST} (xq) p = {MICROSOFT}.NhwcMaxPool <kernel_shape = [2, 2]> (t) yq = {TO_FIRST} (p)",
        "MaxPool",
    ),
    "MaxPool": ("yq = MaxPool <kernel_shape = [2, 2]> (xq)", "MaxPool"),
    "Max": ("yq = Max(xq, low)", "Max"),
    "Pad": ("yq = Pad(xq, pads, z)", "Pad"),
    "Pad with code zero": ("yq = Pad(xq, pads)", "Pad"),
    "Concat": ("yq = Concat <axis = 1> (xq, xq)", "Concat"),
}


@pytest.mark.parametrize("case", ON_CODES)
def test_an_operator_on_codes_has_the_numbers_that_they_stand_for(case):
    call, operator = ON_CODES[case]
    more = {"m6": np.random.default_rng(1).integers(-99, 99, (6, 6)).astype(np.int8)}
    proto = model(f"xq = QuantizeLinear(x, s, z) {call} y = DequantizeLinear(yq, s, z)", **more)
    result = dequantized(proto)
    assert operators(result)[operator] == 1
    assert quantization_of(ir.from_proto(result)) is None
    # What is put in lies on steps, so that the quantiser of the input adds nothing.
    x = np.round(sample() / STEP) * np.float32(STEP)
    quantised, numbers = run(proto, x), run(result, x)
    inside = (numbers > -6) & (numbers < 6.7)
    assert quantised.shape == numbers.shape
    assert inside.mean() > 0.5
    assert np.abs(quantised - numbers)[inside].max() <= 1.01 * STEP


@pytest.mark.parametrize("transposed", [0, 1])
def test_a_product_of_matrices_on_codes(transposed):
    call = f"{MICROSOFT}.QGemm <transB = {transposed}> (r, s, z, m, ws, wz, b, s, z)"
    body = f"xq = QuantizeLinear(x, s, z) r = Reshape(xq, size) yq = {call} y = DequantizeLinear(yq, s, z)"
    proto = model(body, x="float[3, 2, 2]", y="float[N, M]", s=np.float32(0.05))
    x = np.round(sample(3, 2, 2) / STEP) * np.float32(STEP)
    assert np.abs(run(proto, x) - run(dequantized(proto), x)).max() <= 1.01 * STEP


def test_a_product_of_codes_into_floating_point():
    call = f"{MICROSOFT}.MatMulIntegerToFloat(xq, m, s, ws, z, wz)"
    proto = model(f"xq = QuantizeLinear(x, s, z) y = {call}", x="float[5, 4]", y="float[N, M]")
    x = np.round(sample(5, 4) / STEP) * np.float32(STEP)
    assert np.abs(run(proto, x) - run(dequantized(proto), x)).max() < 1e-4


DYNAMIC = {
    "MatMul": (
        "i = MatMulInteger(xq, m, xz, onez) f = Cast <to = 1> (i) k = Mul(xs, ws) y = Mul(f, k)",
        "float[5, 4]",
        "float[N, M]",
    ),
    "Conv": (
        f"i = ConvInteger <{WINDOW}> (xq, w, xz) f = Cast <to = 1> (i) k = Mul(xs, one) y = Mul(f, k)",
        "float[2, 4, 6, 6]",
        "float[N, M, P, Q]",
    ),
    "DynamicQuantizeMatMul": (f"y = {MICROSOFT}.DynamicQuantizeMatMul(x, m, ws, wz)", "float[5, 4]", "float[N, M]"),
}


@pytest.mark.parametrize("case", DYNAMIC)
def test_scales_that_are_computed_at_run_time(case):
    body, x, y = DYNAMIC[case]
    start = "" if case == "DynamicQuantizeMatMul" else "xq, xs, xz = DynamicQuantizeLinear(x)"
    proto = model(f"{start} {body}", x=x, y=y)
    found = quantization_of(ir.from_proto(proto))
    assert found is not None
    assert [part.form for part in found.parts] == ["dynamic"]
    result = dequantized(proto)
    assert operators(result)["Conv" if case == "Conv" else "MatMul"] == 1
    given = sample(*((2, 4, 6, 6) if case == "Conv" else (5, 4)))
    wanted = run(proto, given)
    assert np.abs(wanted - run(result, given)).max() < 0.02 * np.abs(wanted).max()


def test_weights_in_blocks():
    generator = np.random.default_rng(2)
    more = {
        "codes": generator.integers(0, 256, (8, 2, 8)).astype(np.uint8),
        "scales": generator.uniform(0.01, 0.02, 16).astype(np.float32),
    }
    call = f"{MICROSOFT}.MatMulNBits <K = 20, N = 8, bits = 4, block_size = 16> (x, codes, scales)"
    proto = model(f"y = {call}", x="float[3, 20]", y="float[N, M]", **more)
    found = quantization_of(ir.from_proto(proto))
    assert found is not None
    assert [(part.form, part.weight) for part in found.parts] == [("weights", "int4 in blocks of 16")]
    x = sample(3, 20)
    assert np.allclose(run(proto, x), run(dequantized(proto), x), rtol=1e-5, atol=1e-5)


def test_inputs_and_outputs_that_are_codes_stay_codes():
    proto = model(f"y = QLinearConv <{WINDOW}> (x, {LINEAR})", x="uint8[2, 4, 6, 6]", y="uint8[N, M, P, Q]")
    result = dequantized(proto)
    assert operators(result) == {"DequantizeLinear": 1, "Conv": 1, "QuantizeLinear": 1}
    x = np.random.default_rng(1).integers(0, 256, (2, 4, 6, 6)).astype(np.uint8)
    assert np.abs(run(proto, x).astype(int) - run(result, x).astype(int)).max() <= 1


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("xq, xs, xz = DynamicQuantizeLinear(x) i = MatMulInteger(xq, m) y = Cast <to = 1> (i)", "codes are read"),
        ("xq, xs, xz = DynamicQuantizeLinear(x) i = MatMulInteger(xq, m) j = Neg(i) y = Cast <to = 1> (j)", "scale"),
        ("xq = QuantizeLinear(x, s, z) f = Cast <to = 1> (xq) y = Neg(f)", "reads codes"),
        ("t = Abs(s) xq = QuantizeLinear(x, t, z) y = DequantizeLinear(xq, t, z)", None),
    ],
)
def test_what_has_no_form_in_floating_point_is_refused(body, words):
    rewritten = ir.from_proto(model(body, x="float[5, 4]", y="float[N, M]"))
    if words is None:
        dequantize(rewritten)
        return
    with pytest.raises(ModelFileError, match=words) as caught:
        dequantize(rewritten)
    assert caught.value.code == "cannot-dequantize"


def test_codes_in_the_body_of_another_operation_are_refused():
    body = """c = Constant <value = bool {1}> ()
        y = If (c) <then_branch = a () => (float[N, M] p) { q = QuantizeLinear(x, s, z) p = DequantizeLinear(q, s, z) },
                    else_branch = b () => (float[N, M] r) { r = Neg(x) }>"""
    constants = {name: numpy_helper.from_array(np.asarray(held()[name]), name) for name in "sz"}
    proto = model(body, x="float[5, 4]", y="float[N, M]")
    proto.graph.initializer.extend(constants.values())
    with pytest.raises(ModelFileError, match="body of another"):
        dequantize(ir.from_proto(proto))


def test_what_is_quantised_and_how():
    proto = model(f"{QDQ} {AGAIN} y = Conv(d, f)", f=np.ones((4, 4, 1, 1), np.float32))
    found = quantization_of(ir.from_proto(proto))
    assert found is not None
    assert [(one.operator, one.form, one.weight, one.activation, one.count) for one in found.parts] == [
        ("Conv", "qdq", "float", "uint8", 1),
        ("Conv", "qdq", "int8 per channel", "uint8", 1),
    ]
    assert quantization_of(ir.from_proto(model("y = Relu(x)"))) is None


def test_linear_operations_in_floating_point_are_counted():
    proto = model(f"{QDQ} {AGAIN} e = Relu(d) y = Conv(e, f)", f=np.ones((4, 4, 1, 1), np.float32))
    found = quantization_of(ir.from_proto(proto))
    assert found is not None
    assert found.floating == {"Conv": 1}
