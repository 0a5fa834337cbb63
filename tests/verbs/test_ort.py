"""`ort`: a model in ONNX Runtime's own format, equal to the source, with the operators that a reduced build needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

import normfold
import timed
from normfold.cli.application import run
from normfold.errors import NormfoldError
from normfold.report import schema
from normfold.runtime import Runnable
from normfold.runtime.targets.timing_client import TimingClient


def test_the_result_runs_alone_and_lists_its_operators(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path, out = timed.products(tmp_path, 2), tmp_path / "out" / "net.ort"
    out.parent.mkdir()
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    before = path.read_bytes()
    assert run(["ort", str(path), "-o", str(out), "--json"]) == 0
    document = json.loads(capfd.readouterr().out)
    jsonschema.validate(document, schema.schema())
    assert document["result"]["bytes_after"] == out.stat().st_size
    assert document["result"]["runtime_bytes"] > 1 << 20
    assert document["result"]["deviation"] <= 1e-6
    assert any(line.startswith("ai.onnx;") and "MatMul" in line for line in document["result"]["operators"])
    listed = (out.parent / "net.config").read_text()
    assert all(line in listed for line in document["result"]["operators"])
    assert {file.name for file in out.parent.iterdir()} == {"net.ort", "net.config"}
    assert path.read_bytes() == before
    x = np.random.default_rng(0).standard_normal((3, 64), dtype=np.float32)
    (y,) = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"]).run(None, {"x": x})
    np.testing.assert_allclose(y, x, rtol=1e-5)


def test_in_words(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = timed.products(tmp_path, 2)
    assert run(["ort", str(path), "-o", str(tmp_path / "net.ort")]) == 0
    text = capfd.readouterr().out
    assert "--include_ops_by_config" in text
    assert "equal outputs" in text


def test_what_differs_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The conversion gives another network."""
    path, other = timed.products(tmp_path, 2), tmp_path / "other"
    other.mkdir()
    changed = onnx.load(path)
    changed.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.eye(64, dtype=np.float32) * 1.1, "w"))
    onnx.save(changed, other / "m.onnx")
    exact = TimingClient.reduce

    def wrong(client: TimingClient, _model: Runnable, *arguments: Any) -> None:
        exact(client, Runnable(other / "m.onnx", other), *arguments)

    monkeypatch.setattr(TimingClient, "reduce", wrong)
    with pytest.raises(NormfoldError) as caught:
        normfold.ort(path, output=tmp_path / "net.ort")
    assert (caught.value.code, caught.value.exit_code) == ("outputs-differ", 1)
    assert "in this format" in caught.value.message
    assert {file.name for file in tmp_path.iterdir()} == {path.name, "other"}
    assert run(["ort", str(path), "-o", str(tmp_path / "net.ort")]) == 1


@pytest.mark.parametrize(
    ("model", "output", "code"),
    [
        ("products2.onnx", "net.onnx", "usage"),
        ("products2.onnx", "nowhere/net.ort", "output-not-writable"),
        ("absent.onnx", "net.ort", "file-not-found"),
    ],
)
def test_what_cannot_be_done_has_its_code(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], model: str, output: str, code: str
) -> None:
    timed.products(tmp_path, 2)
    assert run(["ort", str(tmp_path / model), "-o", str(tmp_path / output), "--json"]) == 2
    assert json.loads(capfd.readouterr().out)["error"]["code"] == code


def test_a_source_is_never_overwritten(tmp_path: Path) -> None:
    path = timed.products(tmp_path, 2).rename(tmp_path / "net.ort")
    with pytest.raises(NormfoldError) as caught:
        normfold.ort(path, output=path)
    assert caught.value.code == "output-is-input"
