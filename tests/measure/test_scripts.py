"""The scripts that time models: the one for a GPU refuses to run without one, a sweep goes on where it stopped."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import timed
from normfold.measure import CONTROL
from normfold.runtime import gpu

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"

pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="a source distribution without the benchmarks")


@pytest.mark.skipif(not isinstance(gpu.look(), str), reason="there is a GPU here")
def test_without_a_gpu_there_are_no_figures(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "--json", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 3
    assert "[provider-unavailable]" in done.stderr
    assert "CUDAExecutionProvider" in done.stderr
    assert done.stdout == ""
    assert not out.exists()


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """``benchmarks/latency.py`` as a module."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("latency")


@pytest.fixture
def sweep(tmp_path: Path, script: Any) -> tuple[str, ...]:
    """Arguments for one model of which every tool's result is there: normfold's takes half of the time."""
    (tmp_path / "zoo").mkdir()
    source = timed.products(tmp_path / "zoo", 40, "net")
    folder = tmp_path / "results" / "net"
    folder.mkdir(parents=True)
    for tool in script.peers.PEERS:
        shutil.copy(source, folder / f"{tool}.onnx")
    timed.products(folder, 20, script.peers.NORMFOLD)
    given = {"--folder": tmp_path / "zoo", "--results": tmp_path / "results", "--json": tmp_path / "out.json"}
    effort = ("--processes", "2", "--seconds", "0.05")
    return (*(word for pair in given.items() for word in map(str, pair)), *effort)


def test_a_sweep_compares_with_the_best_peer_and_goes_on(
    script: Any, sweep: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert script.main(sweep) == 0
    document = json.loads((tmp_path / "out.json").read_text())
    (row,) = document["rows"]
    assert row["best"] in script.peers.PEERS
    assert row["to_best"]["value"] < 0.9
    assert set(row["milliseconds"]) == {script.SOURCE, *script.peers.TOOLS}
    assert CONTROL not in row["milliseconds"]
    assert document["geometric_mean"] == pytest.approx(row["to_best"]["value"])
    monkeypatch.setattr(script, "measure", None)
    assert script.main(sweep) == 0
    with pytest.raises(SystemExit, match="in another way"):
        script.main((*sweep, "--processes", "3"))


def test_a_result_that_computes_something_else_does_not_compete(
    script: Any, sweep: tuple[str, ...], tmp_path: Path
) -> None:
    import numpy as np
    import onnx

    path = tmp_path / "results" / "net" / "onnxsim.onnx"
    model = onnx.load(path)
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(1.1 * np.eye(64, dtype=np.float32), "w"))
    onnx.save(model, path)
    script.main(sweep)
    (row,) = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert row["left_out"]["onnxsim"].startswith("outputs-differ")
    assert set(row["left_out"]) == {"onnxsim"}
    assert row["best"] not in (None, "onnxsim")


def test_slower_beyond_doubt_is_flagged(script: Any) -> None:
    ratio = script.Interval
    assert script.Row("net", to_best=ratio(1.05, 1.03, 1.07)).flagged
    assert not script.Row("net", to_best=ratio(1.05, 1.01, 1.09)).flagged
    assert not script.Row("net").flagged
