"""Quantised weights as ONNX writes them: every linear operation, every type of code, and a real network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import numpy_helper
from onnxruntime.quantization import QuantType, quantize_static

import normfold
from folding import array, model, norm, only_fold, proven_fold, run, statistics, watched
from normfold.backends.onnx import OnnxGraph
from normfold.backends.onnx.quantizers import quantizes_activations
from normfold.pipeline.fold_onnx import UNQUANTIZED
from normfold.runtime import CHECKER
from normfold.verbs.demo import network as demo
from quantized import activation, behind, check_payload, codes, factors, scales, weight

OPERATIONS = {
    "conv": ("2, 4, 5, 5", (3, 4, 3, 3), 0, "Conv <pads = [1, 0, 1, 2], strides = [2, 1]> (x, w)", "Conv"),
    "conv-1d": ("2, 4, 7", (3, 4, 3), 0, "Conv (x, w)", "Conv"),
    "conv-groups": ("2, 4, 5, 5", (6, 2, 3, 3), 0, "Conv <group = 2> (x, w)", "Conv"),
    "depthwise": ("2, 4, 5, 5", (4, 1, 3, 3), 0, "Conv <group = 4> (x, w)", "Conv"),
    "transposed": ("2, 4, 5, 5", (4, 3, 2, 2), 1, "ConvTranspose <strides = [2, 2]> (x, w)", "ConvTranspose"),
    "gemm": ("5, 4", (4, 3), 1, "Gemm (x, w)", "Gemm"),
    "gemm-transposed": ("5, 4", (3, 4), 0, "Gemm <transB = 1> (x, w)", "Gemm"),
    "matmul": ("2, 5, 4", (4, 3), 1, "MatMul (x, w)", "MatMul"),
}


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("case", OPERATIONS)
def test_every_linear_operation(case: str, single: bool) -> None:
    shape, native, axis, linear, op = OPERATIONS[case]
    made, held = weight(*native, axis=axis, single=single)
    channels = native[axis]
    rank = len(shape.split(","))
    scale = array(*(channels, *[1] * (rank - 2)) if op.startswith("Conv") else (channels,), seed=3)
    body = [made, f"[linear] h = {linear}", "t = Mul(h, k)", "y = Add(t, d)"]
    folded = proven_fold(model(f"float[{shape}] x", body, {**held, "k": scale, "d": scale + 1}))
    assert folded.operators == ["DequantizeLinear", op, *(["Add"] if op == "MatMul" else [])]
    assert folded.decision.into[0] == "linear"
    check_payload(folded, op, held, scale.astype(np.float64).reshape(-1), axis)


def test_transposed_convolution_whose_groups_share_scales() -> None:
    made, held = weight(4, 3, 2, 2, axis=1)
    factor = array(3, seed=3)
    constants = {**held, "k": np.tile(factor, 2).reshape(6, 1, 1), "d": array(6, 1, 1)}
    body = [made, "h = ConvTranspose <group = 2> (x, w)", "t = Mul(h, k)", "y = Add(t, d)"]
    folded = proven_fold(model("float[2, 4, 5, 5] x", body, constants))
    assert folded.operators == ["DequantizeLinear", "ConvTranspose"]
    check_payload(folded, "ConvTranspose", held, factor.astype(np.float64), axis=1)


def test_a_constant_first_operand() -> None:
    made, held = weight(3, 4, axis=0)
    body = [made, "h = MatMul (w, x)", "y = Mul(h, k)"]
    folded = proven_fold(model("float[2, 4, 5] x", body, {**held, "k": array(3, 1, seed=3)}))
    assert folded.operators == ["DequantizeLinear", "MatMul"]
    check_payload(folded, "MatMul", held, array(3, 1, seed=3).astype(np.float64).reshape(-1), axis=0, slot=0)


@pytest.mark.parametrize("attributes", ["alpha = -2.0, beta = 0.5", "alpha = 0.25, transA = 1", "beta = 0.0"])
@pytest.mark.parametrize("biased", [False, True])
def test_gemm_with_factors(attributes: str, biased: bool) -> None:
    made, held = weight(4, 3, axis=1)
    shape, operands = ("4, 5" if "transA" in attributes else "5, 4"), "x, w, c" if biased else "x, w"
    body = [made, f"h = Gemm <{attributes}> ({operands})", norm("h", "y")]
    folded = proven_fold(
        model(f"float[{shape}] x", body, {**held, **statistics(3)} | ({"c": array(3)} if biased else {}))
    )
    assert folded.operators == ["DequantizeLinear", "Gemm"]
    assert {a.name for a in folded.result.graph.node[-1].attribute} <= {"transA"}


def test_gemm_with_a_quantised_bias_and_factors() -> None:
    declared, before, held = activation("5, 4")
    made, stored = weight(4, 3, axis=1)
    bias = {"bq": np.int32([4000, -700, 0]), "bs": (held["xs"] * stored["ws"]).astype(np.float32)}
    body = [*before, made, "c = DequantizeLinear <axis = 0> (bq, bs)"]
    body += ["h = Gemm <alpha = -2.0, beta = 3.0> (xd, w, c)", norm("h", "y")]
    constants = {**held, **stored, **bias, **statistics(3)}
    folded = proven_fold(model(declared, body, constants), tolerance=1e-3)
    scale = stored["ws"].astype(np.float64) * 2 * np.abs(factors(constants))
    assert np.allclose(behind(folded.result, "Gemm", 2).scale, scale * held["xs"], rtol=1e-6, atol=0)
    check_payload(folded, "Gemm", constants, -2 * factors(constants), axis=1)


@pytest.mark.parametrize("kind", ["int4", "uint4", "int16", "uint16"])
def test_codes_of_every_type(kind: str) -> None:
    """ONNX Runtime has no kernel for all of them: its reference evaluator runs both."""
    dtype = np.dtype(getattr(ml_dtypes, kind) if kind.endswith("4") and "16" not in kind else kind)
    high = 7 if kind.endswith("nt4") else 255
    middle = 0 if kind[0] == "i" else high // 2 + 1
    values = np.random.default_rng(0).integers(-high, high + 1, (3, 4, 3, 3))
    values = (values if middle == 0 else np.clip(values + middle, 1, 2 * middle - 1)).astype(dtype)
    held = {"q": values, "ws": scales(3), "wz": np.full(3, middle).astype(dtype), **statistics(3)}
    body = ["w = DequantizeLinear <axis = 0> (q, ws, wz)", "h = Conv (x, w)", norm("h", "y")]
    folded = proven_fold(model("float[2, 4, 5, 5] x", body, held, opset=21, ir_version=10), reference=True)
    assert folded.operators == ["DequantizeLinear", "Conv"]
    before, after = (values.astype(int), behind(folded.result, "Conv", 1).codes.astype(int))
    sign = np.sign(factors(held)).astype(int).reshape(3, 1, 1, 1)
    assert np.array_equal(after - middle, sign * (before - middle))


def test_half_precision_scales() -> None:
    made, held = weight(3, 4, 3, 3, axis=0)
    held["ws"] = held["ws"].astype(np.float16)
    constants = {**held, **statistics(3, dtype=np.float16)}
    source = model(
        "float16[2, 4, 5, 5] x",
        [made, "h = Conv (x, w)", norm("h", "y")],
        constants,
        outputs="float16[] y",
        opset=19,
        ir_version=9,
    )
    stored = behind(proven_fold(source, reference=True).result, "Conv", 1)
    assert stored.scale.dtype == np.float16


def test_a_shared_weight_is_copied() -> None:
    made, held = weight(3, 3, 3, 3, axis=0)
    body = [made, "[one] h = Conv (x, w)", norm("h", "t"), "r = Sigmoid(t)", "[two] y = Conv (r, w)"]
    folded = proven_fold(model("float[2, 3, 7, 7] x", body, {**held, **statistics(3)}))
    assert folded.operators.count("DequantizeLinear") == 2
    assert np.array_equal(folded.constant("q"), held["q"])
    assert np.array_equal(folded.constant("ws"), held["ws"])


def test_two_weights_may_share_their_scale() -> None:
    held = {"q": codes(3, 3, 3, 3), "p": codes(3, 3, 3, 3, seed=1), "ws": scales(3), **statistics(3)}
    body = ["w = DequantizeLinear <axis = 0> (q, ws)", "u = DequantizeLinear <axis = 0> (p, ws)"]
    body += ["h = Conv (x, w)", norm("h", "t"), "r = Sigmoid(t)", "y = Conv (r, u)"]
    folded = proven_fold(model("float[2, 3, 7, 7] x", body, held))
    assert np.array_equal(folded.constant("ws"), held["ws"])
    assert np.array_equal(folded.constant("p"), held["p"])


def test_a_folded_weight_folds_again() -> None:
    made, held = weight(3, 4, 3, 3, axis=0)
    constants = {**held, "k": array(3, 1, 1), "l": array(3, 1, 1, seed=5), "d": array(3, 1, 1, seed=6)}
    folded = proven_fold(
        model(
            "float[2, 4, 5, 5] x",
            [made, "h = Conv(x, w)", "t = Mul(h, k)", "u = Add(t, d)", "y = Mul(u, l)"],
            constants,
        )
    )
    assert folded.operators == ["DequantizeLinear", "Conv"]
    check_payload(folded, "Conv", held, (constants["k"].astype(np.float64) * constants["l"]).reshape(-1), axis=0)


REFUSED = {
    "float8": ("whole-codes", "q, ws", {}),
    "blocks": ("scale-axis", "q, ws", {"block_size": 2}),
    "input-axis": ("scale-axis", "q, ws", {"axis": 1}),
    "scale-of-zero": ("well-formed", "q, ws", {}),
    "zero-point-computed": ("constant", "q, ws, z", {}),
    "scale-computed": ("constant", "q, z, wz", {}),
    "scale-overridable": ("not-overridable", "q, ws", {}),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_by_name(case: str) -> None:
    premise, operands, attributes = REFUSED[case]
    held = {"q": codes(4, 4, 1, 1), "ws": scales(4), "wz": np.zeros(4, np.int8), **statistics(4)}
    inputs = "float[2, 4, 5, 5] x"
    if case == "blocks":
        held["ws"] = array(4, 2, 1, 1)
    if case == "scale-of-zero":
        held["ws"][1] = 0
    if case == "float8":
        held["q"] = np.ones((4, 4, 1, 1), ml_dtypes.float8_e4m3fn)
    if case.endswith("computed"):
        inputs += ", int8[4] z" if case.startswith("zero") else ", float[4] z"
    if case == "scale-overridable":
        inputs += ", float[4] ws"
    written = ", ".join(f"{name} = {value}" for name, value in ({"axis": 0} | attributes).items())
    body = [f"w = DequantizeLinear <{written}> ({operands})", "h = Conv (x, w)", norm("h", "y")]
    assert only_fold(model(inputs, body, held, opset=21, ir_version=10)).refused == {premise, "not-output"}


@pytest.mark.parametrize("case", ["type", "zero-point", "steps", "shape"])
def test_a_bias_refused_by_name(case: str) -> None:
    made, held = weight(3, 4, 1, 1, axis=0)
    bias: dict[str, np.ndarray] = {"bq": np.int32([1, 2, 3]), "bs": scales(3, seed=4), "bz": np.zeros(3, np.int32)}
    if case == "type":
        bias |= {"bq": np.int8([1, 2, 3]), "bz": np.zeros(3, np.int8)}
    elif case == "zero-point":
        bias["bz"][1] = 1
    elif case == "steps":
        bias["bs"][1] = -1
    else:
        bias |= {"bs": scales(2), "bz": np.zeros(2, np.int32)}
    body = [made, "c = DequantizeLinear <axis = 0> (bq, bs, bz)", "h = Conv (x, w, c)", norm("h", "y")]
    refused = only_fold(model("float[2, 4, 5, 5] x", body, {**held, **bias, **statistics(3)})).refused
    assert refused == {"well-formed" if case in ("steps", "shape") else "whole-codes", "not-output"}


def test_a_bias_computed_at_run_time_is_refused() -> None:
    made, held = weight(3, 4, 1, 1, axis=0)
    body = [made, "c = DequantizeLinear <axis = 0> (bq, bs)", "h = Conv (x, w, c)", norm("h", "y")]
    constants = {**held, "bs": scales(3, seed=4), **statistics(3)}
    folded = only_fold(model("float[2, 4, 5, 5] x, int32[3] bq", body, constants))
    assert folded.refused == {"constant", "not-output"}


def test_a_quantised_bias_along_another_axis_is_refused() -> None:
    """A Gemm whose weight comes first has its output channels on axis 0, and its bias along axis 1."""
    made, held = weight(3, 4, axis=0)
    bias = {"bq": np.int32([1, 2, 3, 4, 5]), "bs": np.float32(0.01)}
    source = model("float[4, 5] x", [made, "c = DequantizeLinear (bq, bs)", "y = Gemm (w, x, c)"], {**held, **bias})
    graph = OnnxGraph(ir.from_proto(source), CHECKER.infer)
    view = graph.view(graph.nodes()[-1])
    assert [refusal.premise for refusal in view.refusals] == ["per-output-channel"]


def test_a_weight_that_is_quantised_at_run_time_stays() -> None:
    held = {"ws": scales(3), "wz": np.zeros(3, np.int8), **statistics(3)}
    body = ["q = QuantizeLinear <axis = 0> (w0, ws, wz)", "w = DequantizeLinear <axis = 0> (q, ws, wz)"]
    inputs = "float[2, 4, 5, 5] x, float[3, 4, 1, 1] w0"
    folded = only_fold(model(inputs, [*body, "h = Conv (x, w)", norm("h", "y")], held))
    assert folded.refused == {"constant", "not-output"}


class Pictures:
    """The demo's pictures in batches, as ONNX Runtime's quantiser asks for them."""

    def __init__(self, pictures: np.ndarray) -> None:
        self._batches: Iterator[np.ndarray] = iter(np.split(pictures[:64], 4))

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        return None if batch is None else {demo.INPUT: batch}


def quantized_demo(folder: Path, *, per_channel: bool, kind: str) -> onnx.ModelProto:
    """The demo network, quantised with its norms in place and no step before them.

    Some scales are negative where weights are symmetric: few asymmetric ones have mirror images within their type.
    """
    with demo.network() as path:
        source = onnx.load(path)
    held = {tensor.name: tensor for tensor in source.graph.initializer}
    for node in source.graph.node:
        if node.op_type == "BatchNormalization":
            tensor = held[node.input[1]]
            gamma = numpy_helper.to_array(tensor).copy()
            gamma[::3] *= 1 if kind == "QUInt8" else -1
            tensor.CopyFrom(numpy_helper.from_array(gamma, tensor.name))
    onnx.save(source, folder / "source.onnx")
    reader: Any = Pictures(demo.pictures()[0])
    quantize_static(
        folder / "source.onnx",
        folder / "quantized.onnx",
        reader,
        per_channel=per_channel,
        weight_type=getattr(QuantType, kind),
        activation_type=QuantType.QUInt8,
        op_types_to_quantize=["Conv", "Gemm"],
        extra_options={"OpTypesToExcludeOutputQuantization": ["Conv"]},
    )
    return onnx.load(folder / "quantized.onnx")


def linear_weights(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Codes of every linear operation, around their zero point and channels first."""
    found = {}
    for node in proto.graph.node:
        if node.op_type == "Conv":
            values = behind(proto, "Conv", 1, node.name).values
            zero = values[2].astype(int).reshape(-1, 1, 1, 1) if len(values) > 2 else 0
            found[node.name] = values[0].astype(int) - zero
    return found


@pytest.mark.parametrize("kind", ["QInt8", "QUInt8"])
@pytest.mark.parametrize("per_channel", [False, True])
def test_a_quantised_network(tmp_path: Path, per_channel: bool, kind: str) -> None:
    source = quantized_demo(tmp_path, per_channel=per_channel, kind=kind)
    folded = normfold.fold(source)
    result = folded.model
    assert isinstance(result, onnx.ModelProto)
    assert folded.verification.status == "equivalent"
    assert folded.verification.because == UNQUANTIZED
    assert (folded.verification.max_rel or 0) < 1e-5
    into = [d for d in folded.decisions if "fold_affine_into_quantized_producer" in d.rules]
    assert len(into) == len(linear_weights(source)) - 1, "every norm behind a Conv; one Conv has none"
    assert all(decision.outcome == "folded" for decision in into)
    before, after = linear_weights(source), linear_weights(result)
    flips = 0
    for name, codes_before in before.items():
        for old, new in zip(codes_before, after[name], strict=True):
            assert np.array_equal(old, new) or np.array_equal(old, -new)
            flips += np.array_equal(old, -new) and not np.array_equal(old, new)
    assert bool(flips) == (kind == "QInt8")
    check_runs(source, result, demo.pictures()[0][:128])


def check_runs(source: onnx.ModelProto, result: onnx.ModelProto, pictures: np.ndarray) -> None:
    """Steps of activations apart at most, with and without ONNX Runtime's own folds."""
    onnx.checker.check_model(result, full_check=True)
    wanted = run(source, {demo.INPUT: pictures})[demo.OUTPUT]
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(result.SerializeToString(), options, providers=["CPUExecutionProvider"])
    for got in (run(result, {demo.INPUT: pictures})[demo.OUTPUT], session.run(None, {demo.INPUT: pictures})[0]):
        assert np.abs(got - wanted).max() <= 0.05 * np.ptp(wanted)
        assert (got.argmax(axis=1) == wanted.argmax(axis=1)).mean() >= 0.98


def test_a_fold_is_compared_without_the_steps_of_activations() -> None:
    """And the model that is handed over has them."""
    declared, before, held = activation("2, 4, 5, 5")
    made, stored = weight(3, 4, 3, 3, axis=0)
    after = ["tq = QuantizeLinear (t, ts, xz)", "y = DequantizeLinear (tq, ts, xz)"]
    constants = {**held, **stored, **statistics(3), "ts": np.float32(0.05)}
    source = model(declared, [*before, made, "h = Conv (xd, w)", norm("h", "t"), *after], constants)
    folded = normfold.fold(source)
    assert isinstance(folded.model, onnx.ModelProto)
    assert folded.verification.status == "equivalent"
    assert UNQUANTIZED in folded.verification.because
    assert [node.op_type for node in folded.model.graph.node].count("QuantizeLinear") == 2
    assert [node.op_type for node in folded.model.graph.node].count("DequantizeLinear") == 3
    assert (folded.verification.max_rel or 0) < 1e-6


MOVED = {
    "matmul": ((3, 4), 0, ["w = Transpose <perm = [1, 0]> (w0)", "[linear] h = MatMul (x, w)"], "2, 5, 4"),
    "gemm": ((4, 3), 1, ["w = Transpose <perm = [1, 0]> (w0)", "[linear] h = Gemm <transB = 1> (x, w)"], "5, 4"),
    "reshaped": ((3, 1, 2, 2), 0, ["w1 = Reshape(w0, to)", "w = Transpose(w1)", "[linear] h = MatMul (x, w)"], "5, 4"),
    "unsqueezed": ((3, 4), 0, ["w = Unsqueeze(w0, ends)", "[linear] h = Conv (x, w)"], "2, 4, 5"),
}
SHAPES = {"to": np.array([3, 4]), "ends": np.array([-1])}


def moved(case: str, *, single: bool = False) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    native, axis, lines, shape = MOVED[case]
    made, held = weight(*native, axis=axis, single=single)
    scale = array(*((3, 1) if case == "unsqueezed" else (3,)), seed=3)
    body = [made.replace(" w =", " w0 ="), *lines, "[scale] t = Mul(h, k)", "y = Softmax(t)"]
    held |= {name: values for name, values in SHAPES.items() if name in " ".join(lines)}
    return model(f"float[{shape}] x", body, {**held, "k": scale}), held


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("case", MOVED)
def test_a_weight_that_is_moved_behind_its_dequantization(case: str, single: bool) -> None:
    source, held = moved(case, single=single)
    folded = proven_fold(source)
    assert folded.decision.into == ("linear",)
    assert "Mul" not in folded.operators
    (name,) = (node.input[0] for node in folded.result.graph.node if node.op_type == "DequantizeLinear")
    (codes,) = (numpy_helper.to_array(t) for t in folded.result.graph.initializer if t.name == name)
    axis = MOVED[case][1]
    (scale,) = (numpy_helper.to_array(t) for t in source.graph.initializer if t.name == "k")
    sign = np.sign(scale).astype(np.int8)
    assert np.array_equal(codes, held["q"] * sign.reshape([-1 if k == axis else 1 for k in range(codes.ndim)]))


def test_a_moved_weight_that_others_read_is_copied() -> None:
    made, held = weight(4, 4, axis=0)
    body = [made.replace(" w =", " w0 ="), "w = Transpose(w0)", "h = MatMul (x, w)", "t = Mul(h, k)", "z = Softmax(t)"]
    folded = proven_fold(
        model("float[2, 4] x", [*body, "y = MatMul(x, w)"], {**held, "k": array(4)}, outputs="float[] y, float[] z")
    )
    assert sorted(folded.operators) == sorted(["DequantizeLinear", "Transpose", "MatMul"] * 2 + ["Softmax"])


def test_a_moved_weight_whose_outputs_cannot_be_followed() -> None:
    made, held = weight(2, 3, 2, axis=0, single=True)
    body = [made.replace(" w =", " w0 ="), "w = Reshape(w0, to)", "[linear] h = MatMul (x, w)", norm("h", "y")]
    source = model("float[5, 2] x", body, {**held, **statistics(6), "to": np.array([2, 6])})
    folded = proven_fold(source)
    assert "scale-axis" in folded.refused
    assert "cannot be followed through Reshape" in folded.because("scale-axis")


STORED = {
    "int8": (np.int8, 0, (3, 1, 1, 1)),
    "uint8": (np.uint8, 128, (3, 1, 1, 1)),
    "int16": (np.int16, 0, (3, 1, 1, 1)),
}


def paired(kind: str, *, single: bool, opset: int = 21) -> onnx.ModelProto:
    """A weight in float32 that is quantised and dequantised at every run, and a norm."""
    dtype, zero, _ = STORED[kind]
    count = () if single else (3,)
    held = {"w0": array(3, 4, 3, 3), "qs": np.full(count, 2.0**-6, "f"), "qz": np.full(count, zero, dtype)}
    held["w0"].flat[:3] = 0.5 * held["qs"].flat[0], 1.5 * held["qs"].flat[0], 99  # ties, and out of range
    body = [
        "[quantize] c = QuantizeLinear <axis = 0> (w0, qs, qz)",
        "[dequantize] w = DequantizeLinear <axis = 0> (c, qs, qz)",
        "[linear] h = Conv (x, w)",
        norm("h", "y"),
    ]
    return model("float[2, 4, 5, 5] x", body, {**held, **statistics(3)}, opset=opset)


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("kind", STORED)
def test_a_weight_behind_its_own_pair(kind: str, single: bool) -> None:
    source = paired(kind, single=single)
    folded = proven_fold(source)
    assert folded.decision.outcome == "folded"
    assert folded.operators == ["DequantizeLinear", "Conv"]
    codes = run(watched(source, ["c"]), {"x": np.zeros((2, 4, 5, 5), "f")})["c"]
    name = folded.result.graph.node[0].input[0]
    (stored,) = (numpy_helper.to_array(t) for t in folded.result.graph.initializer if t.name == name)
    sign = np.sign(factors(statistics(3))).reshape(-1, 1, 1, 1)
    zero = STORED[kind][1]
    assert np.array_equal(stored, zero + sign * (codes.astype(np.int64) - zero))


def test_a_weight_whose_pair_stays_is_not_stored_anew() -> None:
    source = paired("int8", single=False)
    assert only_fold(source, skip=["*"]).operators == [
        "QuantizeLinear",
        "DequantizeLinear",
        "Conv",
        "BatchNormalization",
    ]


@pytest.mark.parametrize("case", ["float8", "blocks", "not-a-number"])
def test_codes_that_are_not_computed(case: str) -> None:
    """Nothing is folded into what cannot be told to the last code."""
    source = paired("int8", single=True)
    node = source.graph.node[0]
    if case == "float8":
        for held in source.graph.initializer:
            if held.name == "qz":
                held.CopyFrom(onnx.helper.make_tensor("qz", onnx.TensorProto.FLOAT8E4M3FN, [], [0.0]))
    elif case == "blocks":
        node.attribute.append(onnx.helper.make_attribute("block_size", 2))
    else:
        (weights,) = (t for t in source.graph.initializer if t.name == "w0")
        weights.CopyFrom(numpy_helper.from_array(np.full((3, 4, 3, 3), np.nan, "f"), "w0"))
    folded = only_fold(source)
    assert folded.decision.outcome == "kept"


def test_stored_weights_are_no_activations() -> None:
    """They keep their steps where two models are compared without those of their activations."""
    held = {"w0": array(3, 4, 1, 1), "s": np.float32(0.02), "z": np.int8(0)}
    constant = "w1 = Identity(w0)"
    body = [constant, "c = QuantizeLinear (w1, s, z)", "w = DequantizeLinear (c, s, z)", "y = Conv (x, w)"]
    assert not quantizes_activations(ir.from_proto(model("float[2, 4, 5, 5] x", body, held)))
    at_run_time = [body[0].replace("w0", "x"), *body[1:3], "y = Relu(w)"]
    assert quantizes_activations(ir.from_proto(model("float[2, 4, 5, 5] x", at_run_time, {k: held[k] for k in "sz"})))
