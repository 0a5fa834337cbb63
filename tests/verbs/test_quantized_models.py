"""`normfold.quantize` of models that are quantised already."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

import normfold
from folding import array, model
from normfold.backends.onnx.dequantize import quantization_of
from normfold.cli.application import run
from normfold.errors import NormfoldError
from normfold.pipeline.quantize import floating
from normfold.report.schema import schema


@pytest.fixture
def data() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((64, 4, 12, 12)).astype(np.float32)


@pytest.fixture
def net(tmp_path: Path) -> Path:
    body = [
        "[c1] a = Conv<pads=[1,1,1,1]>(x, w1, b1)",
        "[r1] r = Relu(a)",
        "[c2] c = Conv<pads=[1,1,1,1]>(r, w2)",
        "[s] s = Add(c, r)",
        "[r2] y = Relu(s)",
    ]
    held = {"w1": array(16, 4, 3, 3), "b1": array(16, seed=1), "w2": array(16, 16, 3, 3, seed=6)}
    onnx.save(model("float[N,4,12,12] x", body, held), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


@pytest.fixture(params=["QDQ", "QOperator"])
def quantized(request: pytest.FixtureRequest, net: Path, data: np.ndarray, tmp_path: Path) -> Path:
    """``net`` as ONNX Runtime's own tool quantises it, which takes the activations out."""
    tool = pytest.importorskip("onnxruntime.quantization")
    batches = iter([{"x": data[:32]}, {"x": data[32:]}])

    class Reader(tool.CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(batches, None)

    target = tmp_path / f"{request.param}.onnx"
    form = tool.QuantFormat[request.param]
    tool.quantize_static(str(net), str(target), Reader(), quant_format=form, per_channel=True)
    return target


def outputs(file: Path, x: np.ndarray) -> np.ndarray:
    return onnxruntime.InferenceSession(str(file)).run(None, {"x": x})[0]


def test_a_quantised_model_is_no_model_to_quantise(quantized: Path, tmp_path: Path) -> None:
    with pytest.raises(NormfoldError) as caught:
        normfold.quantize(quantized, output=tmp_path / "out.onnx", unmeasured=True)
    assert caught.value.code == "already-quantized"
    assert "--requantize" in caught.value.hint
    assert not (tmp_path / "out.onnx").exists()


def test_in_floating_point_it_is_the_network_that_was_quantised(quantized: Path, net: Path, data, tmp_path) -> None:
    done = normfold.quantize(quantized, width="fp32", output=tmp_path / "out.onnx")
    assert done.verification.status == "within-budget"
    result = onnx.load(tmp_path / "out.onnx")
    assert [node.op_type for node in result.graph.node] == ["Conv", "Relu", "Conv", "Add", "Relu"]
    wanted, found = outputs(net, data), outputs(tmp_path / "out.onnx", data)
    assert np.square(wanted - found).mean() < 1e-3 * wanted.var()


def test_quantised_anew_it_starts_from_what_its_codes_stand_for(quantized: Path, net: Path, data, tmp_path) -> None:
    target = tmp_path / "out.onnx"
    normfold.quantize(
        quantized, calibrate={"x": data}, requantize=True, format="contrib", unmeasured=True, output=target
    )
    found = quantization_of(ir.load(target))
    assert found is not None
    assert {part.form for part in found.parts} == {"qoperator"}
    wanted = outputs(net, data)
    assert np.square(wanted - outputs(target, data)).mean() < 2e-3 * wanted.var()


def test_what_is_not_quantised_cannot_be_dequantised(net: Path, tmp_path: Path) -> None:
    with pytest.raises(NormfoldError, match="floating point already") as caught:
        normfold.quantize(net, width="fp32", output=tmp_path / "out.onnx")
    assert caught.value.code == "usage"


def test_what_computes_something_else_is_not_written(quantized: Path, tmp_path: Path, monkeypatch) -> None:
    right = floating.dequantize

    def wrong(network: ir.Model, *, simulated: bool = False) -> None:
        right(network, simulated=simulated)
        weight = next(v for v in network.graph.initializers.values() if v.shape is not None and len(v.shape) == 4)
        weight.const_value = ir.tensor(-weight.const_value.numpy())

    monkeypatch.setattr(floating, "dequantize", wrong)
    with pytest.raises(NormfoldError) as caught:
        normfold.quantize(quantized, width="fp32", output=tmp_path / "out.onnx")
    assert caught.value.code == "result-differs"
    assert not (tmp_path / "out.onnx").exists()


def test_as_a_document(quantized: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    target = str(tmp_path / "out.onnx")
    assert run(["quantize", str(quantized), "-o", target, "--width", "fp32", "--json"]) == 0
    parsed = json.loads(capfd.readouterr().out)
    jsonschema.validate(parsed, schema())
    assert parsed["result"]["width"] == "fp32"
    assert run(["quantize", str(quantized), "-o", target, "--json"]) == 2
    assert json.loads(capfd.readouterr().out)["error"]["code"] == "already-quantized"
