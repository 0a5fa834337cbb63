"""onnx's checker and shape inference meet models in a process of their own, which may crash."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest
from onnx import parser

import normfold
from normfold.runtime.workers.checker import Checker

CRASHES = {
    "RegexFullMatch": 'y = RegexFullMatch <pattern = "a"> (u)',
    "EyeLike": "y = EyeLike <dtype = 1> (u)",
    "LabelEncoder": "y = ai.onnx.ml.LabelEncoder <keys_int64s = [1], values_int64s = [2]> (u)",
    "DictVectorizer": "y = ai.onnx.ml.DictVectorizer <int64_vocabulary = [1]> (u)",
    "TreeEnsemble": "y = ai.onnx.ml.TreeEnsemble <tree_roots = [0], nodes_featureids = [0], "
    "nodes_modes = uint8[1] {0}, nodes_splits = float[1] {0}, nodes_truenodeids = [0], "
    "nodes_trueleafs = [1], nodes_falsenodeids = [0], nodes_falseleafs = [1], "
    "leaf_targetids = [0], leaf_weights = float[1] {0}> (u)",
}
"""Operators whose shape inference reads the type of an input that has none, and with it what lies at address 0."""


def crashing(line: str) -> onnx.ModelProto:
    return parser.parse_model(f"""<ir_version: 10, opset_import: ["": 23, "ai.onnx.ml": 5, "unknown": 1]>
        m (float[2, 3, 4, 4] x) => (float[] z, y) <float[3] s = {{1, 1, 1}}, float[3] b = {{1, 1, 1}},
                                                  float[3, 3, 1, 1] w = {{1, 0, 0, 0, 1, 0, 0, 0, 1}}> {{
          c = Conv(x, w)
          z = BatchNormalization(c, s, b, b, s)
          u = unknown.Make(x)
          {line}
        }}""")


def onnx_crashes(data: bytes) -> bool:
    """Whether onnx itself still does; where it no longer does, its operator may go from the list."""
    code = "import sys, onnx; onnx.shape_inference.infer_shapes(sys.stdin.buffer.read(), data_prop=True)"
    return subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, check=False).returncode < 0


@pytest.fixture
def checker() -> Iterator[Checker]:
    held = Checker()
    yield held
    held.close()


@pytest.mark.parametrize("operator", CRASHES)
def test_inference_that_crashes_goes_on_without_what_crashes_it(operator: str, checker: Checker) -> None:
    data = crashing(CRASHES[operator]).SerializeToString()
    assert onnx_crashes(data)
    found = checker.infer(data, follow=True).result(60)
    assert found is not None
    assert found[0]["c"][1] == [2, 3, 4, 4]
    assert "u" not in found[0]


@pytest.mark.parametrize("operator", CRASHES)
def test_what_crashes_inference_is_folded_all_the_same(operator: str) -> None:
    model = crashing(CRASHES[operator])
    assert [norm.would.outcome for norm in normfold.inspect(model).norms] == ["folded"]
    done = normfold.fold(model, verify=False)
    assert [decision.outcome for decision in done.decisions] == ["folded"]


def test_a_checker_that_crashes_rejects(checker: Checker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx.save(crashing("y = Relu(u)"), tmp_path / "m.onnx")
    assert "z" not in (checker.rejection(tmp_path / "m.onnx").result(60) or "")
    checker.start()
    process = checker._process
    assert process is not None
    assert process.pid is not None
    monkeypatch.setattr(process, "start", lambda: None)
    os.kill(process.pid, signal.SIGSEGV)
    said = checker.rejection(tmp_path / "m.onnx").result(60)
    assert said is not None
    assert "crashed" in said
    monkeypatch.undo()
    assert "crashed" not in (checker.rejection(tmp_path / "m.onnx").result(60) or "")


def test_a_crash_harms_no_later_request(checker: Checker) -> None:
    good = parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
        m (float[1, N] x) => (y) { h = Relu(x)
          y = Transpose(h) }""").SerializeToString()
    checker.infer(crashing(CRASHES["EyeLike"]).SerializeToString(), follow=True).result(60)
    found = checker.infer(good, follow=True).result(60)
    assert found is not None
    assert {name: list(kept[1] or ()) for name, kept in found[0].items()}["y"] == ["N", 1]


def test_a_forked_process_has_a_checker_of_its_own(checker: Checker) -> None:
    from normfold.runtime import CHECKER

    CHECKER.start()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, b"none" if CHECKER._process is None else b"shared")
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 10) == b"none"
    os.close(read)
    os.close(write)
