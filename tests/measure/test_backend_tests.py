"""The script that folds onnx's backend tests: what it counts, and that it goes on where a case ends its process."""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import nets

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"

pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="a source distribution without the benchmarks")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.chdir(tmp_path)
    return importlib.import_module("backend_tests")


def run(script: Any, monkeypatch: pytest.MonkeyPatch, cases: list[Any], *arguments: str) -> tuple[int, dict[str, Any]]:
    monkeypatch.setattr(script, "cases", lambda: iter(cases))
    monkeypatch.setattr(sys, "argv", ["backend_tests.py", "--json", "out.json", "--workers", "1", *arguments])
    code = script.main()
    return code, json.loads(Path("out.json").read_text())


def case(script: Any, name: str, proto: onnx.ModelProto) -> Any:
    image = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)
    return script.Case(name, lambda: proto, lambda _: [[image]])


def test_a_fold_is_right_and_a_finished_case_is_not_run_again(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [case(script, "own/net", nets.conv_bn())]
    code, figures = run(script, monkeypatch, cases)
    assert code == 0, figures
    assert (figures["models"], figures["run"], figures["changed"], figures["ungenerated"]) == (1, 1, 1, 0)
    monkeypatch.setattr(script, "examined", None)
    assert run(script, monkeypatch, cases, "--resume")[0] == 0
    assert run(script, monkeypatch, cases, "--only", "other/*")[1]["models"] == 0


def test_faults_are_told_apart_and_do_not_end_the_run(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies() -> onnx.ModelProto:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    def raises() -> onnx.ModelProto:
        raise ValueError("unreadable")

    broken = script.normfold.errors.NormfoldError("bad-structure", "it is not well formed")
    monkeypatch.setattr(script.normfold, "inspect", lambda _: (_ for _ in ()).throw(broken))
    dead, unread = script.Case("own/a", dies, lambda _: []), script.Case("own/b", raises, lambda _: [])
    code, figures = run(script, monkeypatch, [dead, unread, case(script, "own/c", nets.conv_bn())])
    assert code == 1
    assert (figures["uncoded"], figures["refused"], figures["wrong"]) == (2, 1, 0)
    faults = {row["case"]: row["faults"] for row in figures["cases"]}
    assert "status -9" in faults["own/a"]["process"]
    assert "unreadable" in faults["own/b"]["test"]
    assert faults["own/c"] == {"inspect": "refused: bad-structure: it is not well formed"}


def test_other_outputs_are_wrong(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    other = onnx.ModelProto()
    other.CopyFrom(nets.conv_bn())
    for tensor in other.graph.initializer:
        tensor.CopyFrom(onnx.numpy_helper.from_array(2 * onnx.numpy_helper.to_array(tensor), tensor.name))
    fold = script.normfold.fold

    def wrong(_: object, *, verify: bool, output: Path) -> Any:
        result = fold(other, verify=verify)
        onnx.save(result.model, output)
        return result

    monkeypatch.setattr(script.normfold, "fold", wrong)
    code, figures = run(script, monkeypatch, [case(script, "own/net", nets.conv_bn())])
    assert (code, figures["wrong"]) == (1, 1)
