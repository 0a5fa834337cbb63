"""`normfold.quantize` from end to end, on networks small enough to be quick."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

import normfold
from folding import array, model
from normfold.cli.application import run
from normfold.core.integers.form import integer_form
from normfold.core.integers.steps import Network
from normfold.errors import NormfoldError
from normfold.passes.quantize.integers import BUDGET
from normfold.proof.comparison import Setup, verify
from normfold.records import Verification
from normfold.report.schema import schema


@pytest.fixture
def net(tmp_path: Path) -> Path:
    body = [
        "[c1] a = Conv<pads=[1,1,1,1]>(x, w1, b1)",
        "[n1] n = BatchNormalization(a, g, b, m, v)",
        "[r1] r = Relu(n)",
        "[c2] c = Conv<pads=[1,1,1,1]>(r, w2)",
        "[s] s = Add(c, r)",
        "[r2] t = Relu(s)",
        "[p] p = GlobalAveragePool(t)",
        "[f] f = Flatten(p)",
        "[g] y = Gemm<transB=1>(f, w3, b3)",
    ]
    held = {
        "w1": array(16, 4, 3, 3),
        "b1": array(16, seed=1),
        "g": array(16, seed=2),
        "b": array(16, seed=3),
        "m": array(16, seed=4),
        "v": np.abs(array(16, seed=5)) + 0.5,
        "w2": array(16, 16, 3, 3, seed=6),
        "w3": array(8, 16, seed=7),
        "b3": array(8, seed=8),
    }
    onnx.save(model("float[N,4,12,12] x", body, held), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


@pytest.fixture
def data() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((64, 4, 12, 12)).astype(np.float32)


@pytest.mark.parametrize("form", ["qdq", "contrib"])
def test_the_result_runs_on_plain_onnx_runtime_and_is_near_its_source(
    net: Path, data: np.ndarray, tmp_path: Path, form: str
) -> None:
    done = normfold.quantize(net, calibrate={"x": data}, format=form, output=tmp_path / "out.onnx", unmeasured=True)
    assert done.refused is None
    assert done.verification.status == "within-budget"
    assert {node.width for node in done.nodes} == {"int8"}
    ours, theirs = (
        onnxruntime.InferenceSession(str(file)).run(None, {"x": data})[0] for file in (tmp_path / "out.onnx", net)
    )
    assert np.square(ours - theirs).mean() < 1e-3 * theirs.var()
    domains = {node.domain for node in onnx.load(tmp_path / "out.onnx").graph.node}
    assert domains == {""} if form == "qdq" else "com.microsoft" in domains


def test_operations_have_their_signal_to_noise(net: Path, data: np.ndarray) -> None:
    done = normfold.quantize(net, calibrate={"x": data}, format="qdq", unmeasured=True)
    found = {node.name: node.sqnr for node in done.nodes}
    assert found["c1"] is not None
    assert all(20.0 < sqnr < 70.0 for sqnr in found.values() if sqnr is not None)
    assert normfold.quantize(net, format="qdq", unmeasured=True).nodes[0].sqnr is None


def test_the_same_input_gives_the_same_bytes(net: Path, data: np.ndarray, tmp_path: Path) -> None:
    for name in ("one", "two"):
        normfold.quantize(net, calibrate={"x": data}, output=tmp_path / name, format="qdq", unmeasured=True)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_without_data_the_ranges_come_from_the_folded_norms(net: Path) -> None:
    done = normfold.quantize(net, format="qdq", unmeasured=True)
    assert "n1" in {decision.site for decision in done.decisions}
    assert any(node.width == "int8" for node in done.nodes)
    assert all(node.because for node in done.nodes if node.width != "int8")


def test_without_data_a_live_norm_knows_what_it_makes(tmp_path: Path) -> None:
    body = [
        "n = LayerNormalization<axis=-1>(x, g, b)",
        "[up] h = MatMul(n, w1)",
        "a = Gelu(h)",
        "[down] y = MatMul(a, w2)",
    ]
    held = {"g": array(16), "b": array(16, seed=1), "w1": array(16, 64, seed=2) / 4, "w2": array(64, 16, seed=3) / 8}
    onnx.save(model("float[N,T,16] x", body, held, opset=20), tmp_path / "net.onnx")
    target = tmp_path / "out.onnx"
    done = normfold.quantize(tmp_path / "net.onnx", format="contrib", output=target, unmeasured=True)
    assert {node.name: node.width for node in done.nodes} | {"up": "int8", "down": "int8"} == {
        node.name: node.width for node in done.nodes
    }
    x = np.random.default_rng(0).standard_normal((2, 100, 16)).astype(np.float32) * 3
    ours, theirs = (
        onnxruntime.InferenceSession(str(f)).run(None, {"x": x})[0] for f in (target, tmp_path / "net.onnx")
    )
    assert np.square(ours - theirs).mean() < 3e-3 * theirs.var()


def test_a_drop_beyond_the_budget_is_refused_with_figures(net: Path, data: np.ndarray, tmp_path: Path) -> None:
    target = tmp_path / "out.onnx"
    options = {"calibrate": {"x": data}, "evaluate": {"x": data}, "metric": "mse", "max_drop": 0.0, "format": "qdq"}
    done = normfold.quantize(net, output=target, unmeasured=True, **options)
    assert done.refused is not None
    assert done.refused.code == "budget-missed"
    assert done.accuracy is not None
    assert done.accuracy.drop > 0
    assert not target.exists()
    forced = normfold.quantize(net, output=target, unmeasured=True, force=True, **options)
    assert forced.refused is not None
    assert target.exists()


@pytest.mark.parametrize("groups", [1, 10])
def test_weights_are_rounded_by_what_they_multiply_where_channels_are_padded(tmp_path: Path, groups: int) -> None:
    """10 channels, of which integer kernels take 12 or 16."""
    body = [
        "a = Conv<pads=[1,1,1,1]>(x, w1)",
        "r = Relu(a)",
        f"c = Conv<pads=[1,1,1,1], group={groups}>(r, w2)",
        "y = Conv(c, w3)",
    ]
    held = {
        "w1": array(10, 4, 3, 3),
        "w2": array(10, 10 // groups, 3, 3, seed=1),
        "w3": array(8, 10, 1, 1, seed=2),
    }
    onnx.save(model("float[N,4,12,12] x", body, held), tmp_path / "net.onnx")
    x = np.random.default_rng(0).standard_normal((64, 4, 12, 12)).astype(np.float32).cumsum(3)
    done = normfold.quantize(tmp_path / "net.onnx", calibrate={"x": x}, format="contrib", unmeasured=True)
    assert done.refused is None
    assert done.choices[-1].name == "weights rounded by second moments"


def test_a_missed_budget_is_repaired(net: Path, data: np.ndarray, tmp_path: Path) -> None:
    """Half the loss of codes alone is allowed: some operations go back, not all of them."""
    options = {"calibrate": {"x": data}, "evaluate": {"x": data}, "metric": "mse", "format": "qdq", "unmeasured": True}
    before = normfold.quantize(net, max_drop=1e9, **options).accuracy
    assert before is not None
    target = tmp_path / "out.onnx"
    done = normfold.quantize(net, max_drop=before.drop / 2, output=target, cache=tmp_path / "kept", **options)
    assert done.refused is None
    assert done.accuracy is not None
    assert 0 < done.accuracy.drop <= before.drop / 2
    back = [node for node in done.nodes if "loses accuracy" in node.because]
    assert 0 < len(back) < len(done.nodes)
    assert {point.chosen for point in done.front} == {False, True}
    assert "in floating point" in done.chosen.name
    assert list((tmp_path / "kept").rglob("stage.json"))
    assert target.exists()


def test_without_a_budget_the_metric_may_drop_by_a_fifth(net: Path, data: np.ndarray) -> None:
    def worse(outputs: dict[str, np.ndarray], labels: object) -> np.ndarray:
        return np.zeros(len(next(iter(outputs.values())))) - (scored.append(1) or len(scored))  # type: ignore[func-returns-value]

    scored: list[int] = []
    done = normfold.quantize(net, calibrate={"x": data}, evaluate={"x": data}, metric=worse, unmeasured=True)
    assert done.refused is not None
    assert "a drop of 0.2 is allowed" in done.refused.message


def test_an_interval_that_reaches_beyond_the_budget_is_a_warning(net: Path, data: np.ndarray) -> None:
    labels = np.random.default_rng(0).integers(0, 8, len(data))
    done = normfold.quantize(
        net, calibrate={"x": data}, evaluate={"x": data, "label": labels}, max_drop=1.0, format="qdq", unmeasured=True
    )
    assert done.accuracy is not None
    assert done.accuracy.worst > 1.0
    assert any("interval" in text for text in done.warnings) == (done.refused is None)


def test_a_model_with_nothing_to_quantise(tmp_path: Path) -> None:
    onnx.save(model("float[N,4] x", ["y = Relu(x)"], {}), tmp_path / "net.onnx")
    with pytest.raises(NormfoldError) as error:
        normfold.quantize(tmp_path / "net.onnx", calibrate={"x": np.ones((4, 4), np.float32)}, unmeasured=True)
    assert error.value.code == "nothing-to-quantize"


def test_a_model_in_an_old_opset_is_told_the_way_out(net: Path, tmp_path: Path) -> None:
    old = onnx.load(net)
    old.opset_import[0].version = 12
    onnx.save(old, tmp_path / "old.onnx")
    with pytest.raises(NormfoldError, match="opset 12") as error:
        normfold.quantize(tmp_path / "old.onnx", unmeasured=True)
    assert error.value.code == "nothing-to-quantize"
    assert "version_converter" in error.value.hint


def test_a_form_that_computes_something_else_is_an_error(
    net: Path, data: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(network: Network) -> Network:
        first, *others = (step for step in integer_form(network).steps)
        return replace(integer_form(network), steps=(replace(first, bias=first.bias + 1.0), *others))  # type: ignore[attr-defined, call-arg]

    monkeypatch.setattr("normfold.passes.quantize.integers.integer_form", wrong)
    with pytest.raises(NormfoldError, match="form that integer kernels have") as error:
        normfold.quantize(net, calibrate={"x": data}, format="qdq", unmeasured=True)
    assert error.value.code == "result-differs"


def test_a_network_that_magnifies_rounding_is_proven_step_by_step(
    net: Path, data: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def apart(queue: Any, source: Any, result: Any, setup: Setup) -> Verification:
        proof = verify(queue, source, result, setup)
        if setup.rtol != BUDGET:
            return proof
        return replace(proof, status="different", max_rel=0.3, because="output 'y' deviates")

    monkeypatch.setattr("normfold.pipeline.quantize.proven.verify", apart)
    done = normfold.quantize(net, calibrate={"x": data}, format="qdq", unmeasured=True)
    assert done.refused is None
    assert done.verification.status == "within-budget"
    step_by_step = "each operation makes the nearest code, 0.5 steps off at most"
    assert done.verification.because == f"{step_by_step}; output 'y' deviates"
    monkeypatch.setattr("normfold.pipeline.quantize.proven.NEAREST", 0.4)
    refused = normfold.quantize(net, calibrate={"x": data}, format="qdq", unmeasured=True).refused
    assert refused is not None
    assert refused.code == "result-differs"
    assert "is 0.5 steps off" in refused.message


@pytest.mark.parametrize(("cut_off", "largest"), [(True, 63), (False, 127)])
def test_weights_have_seven_bits_where_sums_are_cut_off(
    net: Path, data: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, cut_off: bool, largest: int
) -> None:
    monkeypatch.setattr("normfold.passes.quantize.integers.saturates", lambda: cut_off)
    normfold.quantize(net, calibrate={"x": data}, output=tmp_path / "out.onnx", format="qdq", unmeasured=True)
    held = [numpy_helper.to_array(tensor) for tensor in onnx.load(tmp_path / "out.onnx").graph.initializer]
    assert max(int(np.abs(array).max()) for array in held if array.dtype == np.int8 and array.ndim > 1) == largest


def test_as_a_document(net: Path, data: np.ndarray, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "data.npz", x=data)
    target, given = str(tmp_path / "out.onnx"), str(tmp_path / "data.npz")
    arguments = ["quantize", str(net), "-o", target, "--calibrate", given, "--unmeasured", "--json"]
    assert run(arguments) == 0
    parsed = json.loads(capfd.readouterr().out)
    jsonschema.validate(parsed, schema())
    result = parsed["result"]
    assert (result["output"], result["width"], result["latency"]) == (target, "int8", None)
    assert result["verification"]["budget"] > 0
    assert result["bytes"]["after"] > 0


def test_nothing_is_written_without_a_path(net: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["quantize", str(net)]) == 2
    assert "No output path given." in capfd.readouterr().err
