"""`normfold.quantize` to other widths than eight bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

import normfold
from folding import array, model
from normfold.backends.onnx.dequantize import quantization_of
from normfold.errors import NormfoldError


@pytest.fixture
def data() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((48, 64)).astype(np.float32)


@pytest.fixture
def products(tmp_path: Path) -> Path:
    body = [
        "[m1] h = MatMul(x, w1)",
        "[a1] a = Add(h, b1)",
        "[r1] r = Relu(a)",
        "[g] y = Gemm<transB=1>(r, w2, b2)",
    ]
    held = {"w1": array(64, 96), "b1": array(96, seed=1), "w2": array(80, 96, seed=2), "b2": array(80, seed=3)}
    onnx.save(model("float[N,64] x", body, held), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def outputs(file: Path, x: np.ndarray) -> np.ndarray:
    return onnxruntime.InferenceSession(str(file)).run(None, {"x": x})[0]


def noise(file: Path, target: Path, x: np.ndarray) -> float:
    wanted = outputs(file, x)
    return float(np.square(wanted - outputs(target, x)).mean() / wanted.var())


def test_four_bits_compare_sizes_and_levels(products: Path, data: np.ndarray, tmp_path: Path) -> None:
    target = tmp_path / "out.onnx"
    done = normfold.quantize(products, width="int4", calibrate={"x": data}, unmeasured=True, output=target)
    assert done.verification.status == "within-budget"
    names = {point.name for point in done.front}
    assert names == {f"blocks of {size}, accuracy level {level}" for size in (32, 128) for level in (0, 4)}
    assert {node.name: node.width for node in done.nodes}["m1"] == "int4"
    assert "no product" in {node.name: node.because for node in done.nodes}["r1"]
    found = quantization_of(ir.load(target))
    assert found is not None
    assert [(part.operator, part.count) for part in found.parts] == [("MatMulNBits", 2)]
    assert noise(products, target, data) < 0.03
    assert target.stat().st_size < 0.3 * products.stat().st_size


def test_four_bits_are_made_floating_point_again(products: Path, data: np.ndarray, tmp_path: Path) -> None:
    target, back = tmp_path / "out.onnx", tmp_path / "back.onnx"
    normfold.quantize(products, width="int4", unmeasured=True, output=target)
    normfold.quantize(target, width="fp32", output=back)
    assert noise(target, back, data) < 1e-4
    assert quantization_of(ir.load(back)) is None


def test_four_bits_in_standard_operators_are_refused(products: Path, tmp_path: Path) -> None:
    with pytest.raises(NormfoldError, match="operator of ONNX Runtime's own"):
        normfold.quantize(products, width="int4", format="qdq", unmeasured=True, output=tmp_path / "out.onnx")


def test_half_precision(products: Path, data: np.ndarray, tmp_path: Path) -> None:
    target = tmp_path / "out.onnx"
    done = normfold.quantize(products, width="fp16", calibrate={"x": data}, unmeasured=True, output=target)
    assert done.verification.status == "within-budget"
    assert {node.width for node in done.nodes} == {"fp16"}
    assert noise(products, target, data) < 1e-5
    assert target.stat().st_size < 0.55 * products.stat().st_size
    kinds = {one.type.tensor_type.elem_type for one in onnx.load(target).graph.output}
    assert kinds == {onnx.TensorProto.FLOAT}


def test_bfloat16(products: Path, data: np.ndarray, tmp_path: Path) -> None:
    target = tmp_path / "out.onnx"
    done = normfold.quantize(products, width="bf16", calibrate={"x": data[:4]}, unmeasured=True, output=target)
    assert done.verification.status == "within-budget", done.verification
    assert {node.width for node in done.nodes} == {"bf16"}


def test_without_data_only_what_bounds_itself_is_halved(products: Path, tmp_path: Path) -> None:
    with pytest.raises(NormfoldError) as caught:
        normfold.quantize(products, width="fp16", unmeasured=True, output=tmp_path / "out.onnx")
    assert caught.value.code == "nothing-to-quantize"


def quantisers(file: Path) -> list[tuple[str, np.dtype, bool]]:
    """Operator, type of the zero point, and whether that is zero, of all that quantise activations."""
    graph = onnx.load(file).graph
    held = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
    nodes = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    return [(node.domain, held[node.input[2]].dtype, not held[node.input[2]].any()) for node in nodes]


@pytest.fixture
def clamps(tmp_path: Path) -> Path:
    body = [
        "[c1] a = Conv<pads=[1,1,1,1]>(x, w1)",
        "[r1] r = Relu(a)",
        "[n1] n = BatchNormalization(r, g, b, m, v)",
        "[p1] p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(n)",
        "[c2] c = Conv<pads=[1,1,1,1]>(p, w2)",
        "[s1] s = HardSwish(c)",
        "[e1] e = Sigmoid(s)",
        "[k1] k = Mul(s, e)",
        "[c3] y = Conv(k, w3)",
    ]
    held = {"w1": array(6, 4, 3, 3), "w2": array(16, 6, 3, 3, seed=6), "w3": array(8, 16, 1, 1, seed=7)}
    norms = {"g": array(6, seed=2), "b": array(6, seed=3), "m": array(6, seed=4), "v": np.abs(array(6, seed=5)) + 0.5}
    onnx.save(model("float[N,4,8,8] x", body, held | norms), tmp_path / "clamps.onnx")
    return tmp_path / "clamps.onnx"


PICTURES = np.random.default_rng(0).standard_normal((48, 4, 8, 8)).astype(np.float32)


@pytest.mark.parametrize(
    ("ep", "width", "kind", "symmetric", "most"),
    [
        ("tensorrt", "int8", np.int8, True, 2e-3),
        ("qnn", "int8", np.uint8, False, 2e-3),
        ("qnn", "a16w8", np.uint16, False, 2e-4),
        ("tensorrt", "a16w8", np.int16, True, 2e-4),
        ("openvino", "int8", np.uint8, False, 2e-3),
        ("xnnpack", "int8", np.uint8, False, 2e-3),
    ],
)
def test_each_provider_gets_the_codes_that_it_takes(
    clamps: Path, tmp_path: Path, ep: str, width: str, kind: type, symmetric: bool, most: float
) -> None:
    target = tmp_path / "out.onnx"
    done = normfold.quantize(clamps, ep=ep, width=width, calibrate=PICTURES, unmeasured=True, output=target)
    assert done.verification.status == "within-budget"
    assert done.latency is None
    assert {node.width for node in done.nodes} == {width}
    found = quantisers(target)
    assert {one[1] for one in found} == {np.dtype(kind)}
    assert all(one[2] for one in found) == symmetric
    assert {one[0] for one in found} == ({"com.microsoft"} if width == "a16w8" else {""})
    wanted, ours = (onnxruntime.InferenceSession(str(file)).run(None, {"x": PICTURES})[0] for file in (clamps, target))
    assert np.square(wanted - ours).mean() < most * wanted.var()
    # Channels are padded for the CPU's kernels alone.
    assert [6, 4, 3, 3] in [list(one.dims) for one in onnx.load(target).graph.initializer]


def test_sixteen_bit_quantisers_are_standard_operators_where_the_opset_has_them(clamps: Path, tmp_path: Path) -> None:
    newer = onnx.version_converter.convert_version(onnx.load(clamps), 21)
    onnx.save(newer, tmp_path / "newer.onnx")
    target = tmp_path / "out.onnx"
    normfold.quantize(
        tmp_path / "newer.onnx", ep="qnn", width="a16w8", calibrate=PICTURES, unmeasured=True, output=target
    )
    assert {one[0] for one in quantisers(target)} == {""}


def test_a_provider_that_is_not_here_is_not_measured(clamps: Path) -> None:
    with pytest.raises(NormfoldError, match="cannot be measured") as error:
        normfold.quantize(clamps, ep="tensorrt", calibrate=PICTURES)
    assert error.value.code == "provider-unavailable"
    assert "--unmeasured" in error.value.hint


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"ep": "cuda"}, "no integer kernels"),
        ({"ep": "qnn", "format": "contrib"}, "are the CPU's"),
        ({"width": "a16w8", "format": "contrib"}, "of eight bits"),
        ({"ep": "tensorflow"}, "no execution provider"),
    ],
)
def test_what_a_provider_cannot_do_is_said(clamps: Path, options: dict[str, str], said: str) -> None:
    with pytest.raises(NormfoldError, match=said) as error:
        normfold.quantize(clamps, calibrate=PICTURES, unmeasured=True, **options)
    assert error.value.code == "usage"


def test_any_width_tries_those_that_may_be_faster(products: Path, data: np.ndarray) -> None:
    done = normfold.quantize(products, width="auto", calibrate={"x": data}, force=True, threads=1)
    assert {point.width for point in done.front} == {"int8", "int4"}
    assert done.chosen.width in ("int8", "int4")
    halves = normfold.quantize(products, width="auto", ep="cuda", calibrate={"x": data}, unmeasured=True)
    assert {point.width for point in halves.front} == {"fp16"}


def test_what_rounding_to_half_precision_makes_of_a_large_mean_is_seen(tmp_path: Path, data: np.ndarray) -> None:
    """Of numbers around 500 half precision keeps a quarter; the norm behind them leaves nothing but what that lost."""
    body = ["h = MatMul(x, w)", "a = Add(h, c)", "n = LayerNormalization<axis=-1>(a, g, b)", "y = MatMul(n, u)"]
    held = {"w": array(64, 64) / 8, "c": np.full(64, 500, np.float32), "u": array(64, 32, seed=3)}
    norm = {"g": np.ones(64, np.float32), "b": np.zeros(64, np.float32)}
    onnx.save(model("float[N,64] x", body, held | norm), tmp_path / "net.onnx")
    done = normfold.quantize(tmp_path / "net.onnx", width="fp16", calibrate={"x": data}, unmeasured=True, ep="cuda")
    assert done.refused is not None
    assert done.refused.code == "result-differs"
