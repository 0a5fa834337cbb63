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
