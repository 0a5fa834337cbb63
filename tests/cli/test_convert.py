"""``normfold convert``."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import onnx
import pytest
import torch

import normfold
from folding import array, model
from normfold.cli import convert as cli
from normfold.cli.application import run
from normfold.errors import UsageError
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


@pytest.mark.parametrize(
    ("options", "operators", "notes"),
    [
        ([], {"LayerNormalization"}, []),
        (["--ep", "cpu"], {"LayerNormalization"}, []),
        (["--ep", "dml"], {"ReduceMean", "Sqrt", "Div"}, ["opset 16"]),
        (["--ep", "dml", "--opset", "13"], {"ReduceMean", "Sqrt", "Div"}, ["opset 13"]),
    ],
)
def test_written_for_an_execution_provider(
    options: list[str], operators: set[str], notes: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source, written = tmp_path / "net.onnx", tmp_path / "out.onnx"
    line = "y = GroupNormalization <num_groups = 4> (x, g, b)"
    held = {"g": array(8), "b": array(8, seed=1)}
    onnx.save(model("float[2,8,5,5] x", [line], held, opset=21, ir_version=10), source)
    assert run(["convert", str(source), "--to", "layer", "-o", str(written), "--json", *options]) == 0
    parsed = json.loads(capfd.readouterr().out)
    jsonschema.validate(parsed, schema())
    used = {node.op_type for node in onnx.load(written).graph.node}
    assert operators <= used
    assert ("LayerNormalization" in used) == (not notes)
    assert parsed["result"]["verification"]["status"] == "equivalent"
    assert [note in told for note, told in zip(notes, parsed["result"].get("notes", []), strict=True)] == [True] * len(
        notes
    )


def test_an_execution_provider_is_said_in_the_report(net: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["convert", str(net), "--to", "rms", "--dry-run", "--ep", "dml"]) == 0
    assert "no table of kernels for dml" in " ".join(capfd.readouterr().out.split())


def test_no_such_execution_provider(net: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["convert", str(net), "--to", "rms", "--dry-run", "--ep", "abacus"]) == 2
    assert "'abacus'" in capfd.readouterr().err


def test_modules_are_not_written_for_an_execution_provider() -> None:
    module = torch.nn.Sequential(torch.nn.LayerNorm(4))
    with pytest.raises(UsageError, match="--ep is for ONNX models") as caught:
        normfold.convert(module, (torch.ones(2, 4),), to="group", ep="cuda")
    assert caught.value.code == "usage"
