"""The harness that calls the library on mutated models sees what it is there to see, and goes on behind it."""

from __future__ import annotations

import importlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fuzz.calls import CALLS, Case, Execution, executions, mutate_json
from fuzz.mutations import Random
from fuzz.side_files import good

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def run(call: Callable[..., object], monkeypatch: pytest.MonkeyPatch, **limits: Any) -> list[Execution]:
    """What comes of inspecting a model, which ``call`` does, and of reading a profile, both twice."""
    monkeypatch.setitem(CALLS, "inspect", call)
    case = Case(good().SerializeToString(), "", ("inspect", "profile") * 2)
    return list(executions(lambda _: case, range(1), **limits))


def _fails(_data: bytes, _folder: Path) -> None:
    raise KeyError("x")


WRONG: dict[str, tuple[Callable[[bytes, Path], object], str]] = {
    "an exception": (_fails, "internal"),
    "an abort": (lambda *_: os.abort(), "crash"),
    "an exit": (lambda *_: os._exit(0), "crash"),
    "no end": (lambda *_: time.sleep(60), "timeout"),
    "memory": (lambda *_: bytearray(1 << 33), "internal"),
    "a file left behind": (lambda _, folder: (folder / "out" / ".o.tmp").touch(), "leftover"),
    "a temporary file": (lambda _, folder: (folder / "tmp" / "a").touch(), "leftover"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_seen_and_all_is_called(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    job, kind = WRONG[name]
    done = run(job, monkeypatch, **({"seconds": 2.0} if kind == "timeout" else {}))
    assert [one.call for one in done] == ["inspect", "profile"] * 2
    assert [one.finding.kind if one.finding else "" for one in done] == [kind, "", kind, ""]


def test_a_good_model_passes_every_call() -> None:
    calls = tuple(name for name in CALLS if name not in ("npz", "profile", "figures"))
    done = list(executions(lambda _: Case(good().SerializeToString(), "", calls), range(1)))
    assert [(one.call, one.code, one.finding) for one in done] == [(name, "", None) for name in calls]


def test_documents_are_damaged_alike_each_time() -> None:
    document = {"a": [1, {"b": 2}], "c": "d"}
    damaged = [json.dumps(mutate_json(document, Random(seed))) for seed in range(20)]
    assert damaged == [json.dumps(mutate_json(document, Random(seed))) for seed in range(20)]
    assert len(set(damaged)) > 10


@pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="a source distribution without the benchmarks")
def test_a_run_goes_on_and_forgets_what_is_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.chdir(tmp_path)
    script = importlib.import_module("fuzz_calls")
    case = Case(good().SerializeToString(), "", ("inspect", "fold"))
    monkeypatch.setattr(script, "case", lambda _seed, _number: case)
    monkeypatch.setattr(script, "SAID_EVERY", 2)
    monkeypatch.setattr("fuzz_files.prepare", lambda: None)
    mended = CALLS["inspect"]
    monkeypatch.setitem(CALLS, "inspect", _fails)
    assert script.main(["--executions", "3"]) == 1
    assert "4 executions on 2 models" in (first := capsys.readouterr().out)
    assert "2 findings, of which 2 still show" in first
    assert (tmp_path / "out" / "fuzz_calls" / "01-internal" / "model.onnx").exists()
    monkeypatch.setitem(CALLS, "inspect", mended)
    assert script.main(["--executions", "7"]) == 0
    assert "8 executions on 4 models" in (second := capsys.readouterr().out)
    assert "2 findings, of which 0 still show" in second
