"""Every example runs as it stands."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import onnx_ir
import pytest

import normfold
from normfold.verbs.demo.network import network

SLOW = {"camera_on_a_board", "optimize_a_model", "sentence_embeddings"}
EXAMPLES = [
    pytest.param(script, id=script.stem, marks=[pytest.mark.slow] if script.stem in SLOW else [])
    for script in sorted((Path(__file__).resolve().parents[2] / "examples").glob("*.py"))
]


@pytest.mark.parametrize("script", EXAMPLES)
def test_example_runs(script: Path, tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, script], check=False, cwd=tmp_path, capture_output=True, text=True, timeout=600
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_changed_model_is_compared_with_the_one_it_replaces(tmp_path: Path) -> None:
    def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, check=False, cwd=tmp_path, capture_output=True, text=True, timeout=120)

    script = Path(__file__).resolve().parents[2] / "examples" / "ci" / "verify_changed.py"
    gate = (sys.executable, script, "--allow-slower")
    with network() as shipped:
        shutil.copy(shipped, tmp_path / "model.onnx")
    folded = normfold.fold(tmp_path / "model.onnx").model
    identity = ("-c", "user.name=n", "-c", "user.email=n@example.org")
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "model"]):
        assert run("git", *command).returncode == 0
    onnx_ir.save(folded, tmp_path / "model.onnx")
    onnx_ir.save(folded, tmp_path / "other.onnx")
    right = run(*gate, "model.onnx", "other.onnx")
    assert right.returncode == 0, right.stdout + right.stderr
    assert "equivalent" in right.stdout
    assert "other.onnx is new" in right.stdout
    weight = next(value for value in folded.graph.initializers.values() if value.dtype == onnx_ir.DataType.FLOAT)
    weight.const_value = onnx_ir.tensor(weight.const_value.numpy() * 2)
    onnx_ir.save(folded, tmp_path / "model.onnx")
    assert run(*gate, "model.onnx").returncode == 1
