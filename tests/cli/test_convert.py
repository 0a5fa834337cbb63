"""``normfold convert``."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import onnx
import pytest

from folding import array, model
from normfold.cli import convert as cli
from normfold.cli.application import run
from normfold.passes.convert import KINDS, MATRIX, TARGETS
from normfold.report.schema import schema


@pytest.fixture
def net(tmp_path: Path) -> Path:
    body = ["h = MatMul(x, w)", "[norm] n = LayerNormalization(h, g, b)", "y = MatMul(n, v)"]
    held = {"w": array(3, 4), "g": array(4), "b": array(4, seed=1), "v": array(4, 2)}
    onnx.save(model("float[2,3] x", body, held), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def test_the_command_line_knows_every_conversion() -> None:
    assert (cli.TARGETS, cli.KINDS) == (TARGETS, KINDS)
    assert {kind: tuple(row) for kind, row in MATRIX.items()} == dict.fromkeys(KINDS, TARGETS)


def test_as_a_document(net: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["convert", str(net), "--to", "rms", "-o", str(tmp_path / "out.onnx"), "--json"]) == 0
    parsed = json.loads(capfd.readouterr().out)
    jsonschema.validate(parsed, schema())
    (decision,) = parsed["result"]["decisions"]
    assert (decision["outcome"], decision["to"], decision["label"]) == ("converted", "rms", "exact")
    assert parsed["result"]["counts"]["converted"] == 1
    assert parsed["result"]["verification"]["status"] == "equivalent"
    assert "LayerNormalization" not in {node.op_type for node in onnx.load(tmp_path / "out.onnx").graph.node}


def test_in_words(net: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["convert", str(net), "--to", "rms", "--dry-run"]) == 0
    assert "converted      1  LayerNormalization  to rms, exact" in capfd.readouterr().out
    assert run(["convert", str(net), "--to", "rms"]) == 2
    assert "No output path given." in capfd.readouterr().err
    assert run(["convert", str(net), "--to", "cheese", "-o", "x.onnx"]) == 2
