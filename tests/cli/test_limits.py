"""Every command keeps within its time and memory, and says so where it cannot."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import pytest
from onnx import parser

import normfold
from folding import array, model, norm, statistics
from normfold import limits
from normfold.cli import param_types as types
from normfold.cli.application import VERBS, cli, run
from normfold.errors import EnvironmentUnavailableError, UsageError

MUCH_LATER = 60.0
"""Far beyond what a busy machine makes of a limit of seconds, and far below the time without one."""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    file = tmp_path / "m.onnx"
    held = {"w": array(3, 3, 1, 1), **statistics(3)}
    onnx.save(model("float[1, 3, 4, 4] x", ["c = Conv(x, w)", norm("c", "y")], held), file)
    return file


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    """A loop of more rounds than anybody waits for, behind a norm that folds."""
    file = tmp_path / "endless.onnx"
    source = parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
        m (float[1, 3, 4, 4] x) => (float[1, 3, 4, 4] y)
          <float[3, 3, 1, 1] w = {1, 0, 0, 0, 1, 0, 0, 0, 1}, float[3] s = {1, 1, 1}, float[3] b = {1, 1, 1},
           int64 rounds = {1000000000000}, bool on = {1}> {
            c = Conv(x, w)
            n = BatchNormalization(c, s, b, b, s)
            y = Loop(rounds, on, n) <body = body (int64 k, bool go, float[1, 3, 4, 4] v) =>
                                            (bool same, float[1, 3, 4, 4] next) {
                same = Identity(go)
                next = Sin(v)
            }>
        }""")
    onnx.save(source, file)
    return file


def said(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_both_limits(verb: str) -> None:
    command = cli.get_command(click.Context(cli), verb)
    assert command is not None
    assert {"time_limit", "memory_limit"} <= {parameter.name for parameter in command.params}


def test_every_verb_in_python_has_both_limits() -> None:
    import inspect

    for name in ("inspect", "fold", "fold_program", "export", "verify", "bench", "tune", "demo"):
        keywords = inspect.signature(getattr(normfold, name)).parameters
        assert {"time_limit", "memory_limit"} <= set(keywords), name


@pytest.mark.parametrize(("text", "size"), [("64MiB", 64 << 20), ("2GiB", 2 << 30), ("1.5GiB", 3 << 29)])
def test_sizes(text: str, size: int) -> None:
    assert types.memory(text) == size


@pytest.mark.parametrize("text", ["", "2", "2GB", "-1GiB", "GiB", "2 GiB", "1MiB", "0GiB"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(click.BadParameter):
        types.memory(text)


@pytest.mark.parametrize("verb", ["inspect", "verify", "fold"])
def test_a_job_without_time_says_so(verb: str, small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = {"inspect": [small], "verify": [small, small], "fold": [small, "-o", tmp_path / "o.onnx"]}[verb]
    assert run([verb, *map(str, words), "--json", "--time-limit", "1ms"]) == 3
    assert said(capsys)["error"]["code"] == "timed-out"
    assert [file.name for file in tmp_path.iterdir()] == ["m.onnx"]


@pytest.mark.parametrize("verb", ["verify", "fold", "bench", "tune"])
def test_a_model_without_end_is_ended(
    verb: str, endless: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = {"verify": [endless, endless], "fold": [endless, "-o", tmp_path / "o.onnx"]}.get(verb, [endless])
    began = time.monotonic()
    assert run([verb, *map(str, words), "--json", "--time-limit", "3s"]) == 3
    assert time.monotonic() - began < MUCH_LATER
    assert "timed-out" in json.dumps(said(capsys))
    assert [file.name for file in tmp_path.iterdir()] == ["endless.onnx"]


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["fold", "bench", "tune"])
def test_a_model_without_end_is_ended_without_a_limit(
    verb: str, endless: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("normfold.runtime.workers.process.COMPUTING_SECONDS", 2.0)
    words = [endless, "-o", tmp_path / "o.onnx"] if verb == "fold" else [endless]
    assert run([verb, *map(str, words), "--json"]) == 3
    assert "of computing" in json.dumps(said(capsys))


def test_what_does_not_look_at_the_clock_is_interrupted(
    small: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("normfold.passes.fold.onnx_model.inspect", lambda *_: time.sleep(600))
    assert run(["inspect", str(small), "--json", "--time-limit", "2s"]) == 3
    assert said(capsys)["error"]["code"] == "timed-out"


@pytest.mark.parametrize("done", [0, 1, 2])
def test_a_measurement_hands_over_what_it_has_by_then(
    done: int, small: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from normfold.measure.processes import Measurement

    sample, made = Measurement._sample, []

    def slow(self: Measurement, index: int, of: int) -> Any:
        made.append(index)
        if len(made) > done:
            monkeypatch.setattr(limits, "remaining", lambda: 0.0)
            raise limits.timed_out()
        return sample(self, index, of)

    monkeypatch.setattr(Measurement, "_sample", slow)
    monkeypatch.setattr(Measurement, "_per_process", 0.05)
    code = run(["bench", str(small), "--json", "--no-details", "--processes", "5", "--time-limit", "10m"])
    answer = said(capsys)
    if not done:
        assert (code, answer["error"]["code"]) == (3, "timed-out")
        assert "There are no figures" in answer["error"]["message"]
        return
    assert (code, answer["ok"]) == (0, True)
    (cell,) = answer["result"]["cells"]
    assert len(cell["samples"]) == done
    assert any(f"there was time for {done} of 5 processes" in warning for warning in cell["warnings"])


@pytest.mark.slow
def test_memory_is_limited(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held = {"w": np.ones((3000, 3000, 3, 3), np.float32)}
    onnx.save(model("float[1, 3000, 4, 4] x", ["y = Conv(x, w)"], held), tmp_path / "m.onnx")
    assert run(["inspect", str(tmp_path / "m.onnx"), "--json", "--memory-limit", "100MiB"]) in (2, 3)
    assert said(capsys)["error"]["code"] in ("out-of-memory", "too-large")


def test_the_closest_limit_holds() -> None:
    with limits.limited(100.0, 1 << 40), limits.limited(1000.0, 1 << 50):
        assert 90.0 < (limits.remaining() or 0.0) <= 100.0
        assert limits.memory_limit() == 1 << 40
    assert limits.remaining() is None
    with limits.limited():
        assert limits.USUAL_SECONDS - 10 < (limits.remaining() or 0.0) <= limits.USUAL_SECONDS


def test_memory_that_is_used_counts() -> None:
    with limits.limited(memory_limit=50 << 20):
        limits.check()
        held = np.ones(20 << 20)
        with pytest.raises(EnvironmentUnavailableError, match=r"memory limit of 0\.0488281 GiB"):
            limits.check()
        del held


@pytest.mark.parametrize("keyword", ["time_limit", "memory_limit"])
def test_a_limit_of_nothing_is_refused(keyword: str, small: Path) -> None:
    with pytest.raises(UsageError, match="more than zero"):
        normfold.inspect(small, **{keyword: 0})


def test_a_call_in_python_ends_in_time(endless: Path) -> None:
    with pytest.raises(EnvironmentUnavailableError) as caught:
        normfold.verify(endless, endless, time_limit=3.0)
    assert caught.value.code == "timed-out"


@pytest.mark.parametrize("verb", ["bench", "tune", "fold"])
def test_an_output_that_is_an_input_is_refused(
    verb: str, small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "i.npz", x=np.ones((1, 3, 4, 4), np.float32))
    (tmp_path / "link.json").hardlink_to(small)
    for output in (small, tmp_path / "link.json", tmp_path / "i.npz"):
        before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
        assert run([verb, str(small), "-o", str(output), "--inputs", str(tmp_path / "i.npz"), "--json"]) == 2
        assert said(capsys)["error"]["code"] == "output-is-input"
        assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


@pytest.mark.parametrize("verb", ["inspect", "fold", "bench"])
def test_names_are_escaped_in_everything_printed(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = model("float[1, 3, 4, 4] x", ["c = Conv(x, w)", norm("c", "y")], {"w": array(3, 3, 1, 1), **statistics(3)})
    for node in source.graph.node:
        node.name = f"two\nlines\x1b[31m\r\x7f\x85\u202e{node.op_type}"
    onnx.save(source, tmp_path / "a\nb.onnx")
    monkeypatch.setattr("normfold.measure.processes.Measurement._per_process", 0.05)
    more = {"fold": ["--dry-run"], "bench": ["--half-width", "50", "--processes", "2", "--profile-nodes"]}
    run([verb, str(tmp_path / "a\nb.onnx"), "-v", *more.get(verb, [])])
    printed = capsys.readouterr()
    assert r"a\nb" in printed.out
    for text in (printed.out, printed.err):
        assert all(letter.isprintable() or letter == "\n" for letter in text)
        assert not any(line.startswith(("lines", "b")) for line in text.splitlines())
