"""The harness for hostile files sees what it is there to see."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from fuzz.graphs import random_model
from fuzz.hostile import run_case
from fuzz.mutations import MUTATIONS, Random, mutate, mutate_bytes
from fuzz.side_files import good

GOOD = '{"error": null}'


def _says(code: int, text: str, aside: str = "") -> None:
    sys.stdout.write(text)
    sys.stderr.write(aside)
    sys.exit(code)


def _leaves(name: str, code: int = 0) -> None:
    Path(name).write_bytes(b"x")
    _says(code, '{"error": {"code": "usage"}}' if code else GOOD)


def _fails(error: str) -> None:
    _says(2, f'{{"error": {{"code": "{error}", "message": "normfold 0 failed: KeyError: 1"}}}}')


WRONG: dict[str, tuple[Callable[[], object], str]] = {
    "an abort": (os.abort, "crash"),
    "no end": (lambda: time.sleep(60), "timeout"),
    "an exception": (lambda: 1 / 0, "escaped"),
    "a bug": (lambda: _fails("internal"), "internal"),
    "another exit code": (lambda: _says(7, GOOD), "exit"),
    "no code": (lambda: _says(2, GOOD), "exit"),
    "words in place of a document": (lambda: _says(0, "hello"), "escaped"),
    "a traceback": (lambda: _says(0, GOOD, "Traceback (most recent call last)\nE"), "traceback"),
    "an input changed": (lambda: _leaves("m.onnx"), "input changed"),
    "a file left behind": (lambda: _leaves("out/.o.onnx.tmp"), "leftover"),
    "a temporary file": (lambda: _leaves("tmp/a"), "leftover"),
    "a file beside an error": (lambda: _leaves("out/o.onnx", 2), "half-written"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_seen(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job, kind = WRONG[name]
    monkeypatch.setattr("normfold.cli.main", lambda _command: job())
    (tmp_path / "m.onnx").write_bytes(b"model")
    done, findings = run_case(tmp_path, [("inspect", "m.onnx")], seconds=0.5)
    assert len(done) == 1
    assert findings[0].kind == kind


def test_what_takes_too_much_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("normfold.cli.main", lambda _command: (_computes(0.5), _says(0, GOOD)))
    monkeypatch.setattr("fuzz.hostile.PATIENCE", 100.0)
    done, findings = run_case(tmp_path, [("inspect", "m.onnx")], seconds=0.3, memory=1 << 20)
    assert [found.kind for found in findings] == ["slow", "memory"]
    assert done[0].computed > 0.3
    assert done[0].peak > 1 << 20


def test_waiting_on_a_busy_machine_is_not_slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("normfold.cli.main", lambda _command: (time.sleep(0.4), _says(0, GOOD)))
    monkeypatch.setattr("fuzz.hostile.PATIENCE", 100.0)
    findings = {}
    for load in (0.0, 1000.0):
        monkeypatch.setattr("os.getloadavg", lambda load=load: (load, 0.0, 0.0))
        findings[load] = [one.kind for one in run_case(tmp_path, [("inspect", "m.onnx")], seconds=0.3)[1]]
    assert findings == {0.0: ["slow"], 1000.0: []}


def _computes(seconds: float) -> None:
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


def test_what_follows_a_crash_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = {"crash": os.abort, "fine": lambda: _says(0, GOOD)}
    monkeypatch.setattr("normfold.cli.main", lambda command: jobs[command[0]]())
    done, findings = run_case(tmp_path, [("fine",), ("crash",), ("crash",), ("fine",)])
    assert [one.exit for one in done] == [0, -1, -1, 0]
    assert [found.kind for found in findings] == ["crash", "crash"]


def test_a_good_file_is_folded(tmp_path: Path) -> None:
    onnx.save(good(), tmp_path / "m.onnx")
    commands = [("inspect", "m.onnx", "--json"), ("fold", "m.onnx", "-o", "out/o.onnx", "--no-verify", "--json")]
    done, findings = run_case(tmp_path, commands)
    assert [one.exit for one in done] == [0, 0]
    assert findings == []


@pytest.mark.parametrize("name", MUTATIONS)
def test_every_mutation_changes_a_model_and_repeats(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fuzz.mutations.MUTATIONS", {name: MUTATIONS[name]})

    def mutants() -> list[bytes]:
        made = []
        for seed in range(8):
            model = random_model(seed)
            mutate(model, Random(seed), 1)
            made.append(model.SerializeToString(deterministic=True))
        return made

    originals = [random_model(seed).SerializeToString(deterministic=True) for seed in range(8)]
    assert mutants() == mutants()
    assert mutants() != originals


def test_bytes_are_damaged_alike_each_time() -> None:
    data = good().SerializeToString()
    assert mutate_bytes(data, Random(1)) == mutate_bytes(data, Random(1)) != data
