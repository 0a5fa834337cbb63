"""`normfold bench` and `normfold compare` as a user calls them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest

import timed
from normfold.cli.application import run
from normfold.measure.processes import Measurement
from normfold.report import schema
from normfold.runtime import session_profile

Ask = Callable[..., tuple[int, dict]]
SHORT = ("--processes", "2", "--half-width", "50")
BRIEF = (*SHORT, "--no-details")


@pytest.fixture(autouse=True)
def _brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time little in each process."""
    monkeypatch.setattr(Measurement, "_per_process", 0.1)


@pytest.fixture
def ask(capfd: pytest.CaptureFixture[str]) -> Ask:
    """Run a command with --json; its exit code and its document."""

    def call(*arguments: object) -> tuple[int, dict]:
        capfd.readouterr()
        code = run([*map(str, arguments), "--json"])
        parsed = json.loads(capfd.readouterr().out)
        jsonschema.validate(parsed, schema.schema())
        if parsed["command"] == "bench" and parsed["result"]:
            jsonschema.validate(parsed["result"], schema.schema(schema.BENCH_FILE))
        return code, parsed

    return call


@pytest.fixture
def net(tmp_path: Path) -> Path:
    return timed.products(tmp_path, 20, "net")


def test_figures_in_a_file_and_compared_with_themselves(ask: Ask, net: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    code, parsed = ask("bench", net, *SHORT, "-o", out)
    assert code == 0
    document = json.loads(out.read_text())
    jsonschema.validate(document, schema.schema(schema.BENCH_FILE))
    assert document["cells"] == parsed["result"]["cells"]
    (cell,) = document["cells"]
    (figure,) = cell["figures"]
    low, value, high = (figure["latency_ns"][key] for key in ("low", "value", "high"))
    assert 0 < low <= value <= high
    assert figure["details"]["nodes"][0]["operator"] == "MatMul"
    assert document["models"][0]["bytes"] == net.stat().st_size
    assert len(cell["samples"]) >= 2
    assert {path.name for path in tmp_path.iterdir()} == {"net.onnx", "out.json"}
    code, parsed = ask("compare", out, out)
    assert code == 0
    assert parsed["result"]["comparisons"][0]["ratio"]["value"] == 1.0


def test_a_table_for_every_batch_size(ask: Ask, net: Path) -> None:
    code, parsed = ask("bench", net, *BRIEF, "--batch", "1,3", "--threads", "2", "--use", "edge")
    assert code == 0
    cells = parsed["result"]["cells"]
    assert [(cell["batch"], cell["threads"]) for cell in cells] == [(1, 2), (3, 2)]
    assert [cell["inputs"][0]["shape"] for cell in cells] == [[1, 64], [3, 64]]


def test_in_words(net: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    double = timed.products(tmp_path, 60, "double")
    assert run(["bench", str(net), str(double), *SHORT, "--profile-nodes"]) == 0
    captured = capfd.readouterr().out
    assert "double takes " in captured
    assert "noise floor" in captured
    assert "nodes of net\n  µs a run" in captured
    assert "48 more" in captured


def test_quietly(net: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", str(net), *BRIEF, "-q"]) == 0
    assert len(capfd.readouterr().out.splitlines()) == 2


@pytest.mark.parametrize("provider", ["cuda", "tensorrt", "coreml"])
def test_a_provider_that_is_not_there(ask: Ask, net: Path, provider: str) -> None:
    code, parsed = ask("bench", net, *BRIEF, "--ep", provider)
    assert code == 3
    assert parsed["error"]["code"] == "provider-unavailable"
    assert parsed["result"]["cells"][0]["refused"]["code"] == "provider-unavailable"
    assert parsed["result"]["cells"][0]["figures"] == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("bench",),
        ("bench", "net.onnx", "--ep", "abacus"),
        ("bench", "net.onnx", "--batch", "one"),
        ("bench", "net.onnx", "--threads", "0"),
        ("bench", "net.onnx", "--use", "desktop"),
        ("bench", "net.onnx", "--cpus", "100000"),
        ("compare", "a.json"),
        ("compare", "a.json", "b.onnx"),
    ],
)
def test_usage(ask: Ask, arguments: tuple[str, ...]) -> None:
    code, parsed = ask(*arguments)
    assert code == 2
    assert parsed["error"]["code"] == "usage"


def test_settings_from_a_file(ask: Ask, net: Path, tmp_path: Path) -> None:
    profile = session_profile.SessionProfile(disabled_optimizers=("GeluFusion",), intra_threads=1)
    (tmp_path / "p.json").write_text(json.dumps(profile.to_json()))
    code, parsed = ask("bench", net, *BRIEF, "--session", tmp_path / "p.json")
    assert code == 0
    assert parsed["result"]["models"][0]["session"]["disabled_optimizers"] == ["GeluFusion"]
    (tmp_path / "p.json").write_text("{}")
    code, parsed = ask("bench", net, *BRIEF, "--session", tmp_path / "p.json")
    assert code == 2
    assert parsed["error"]["code"] == "bad-session-profile"


@pytest.mark.slow
def test_a_regression_is_exit_1(net: Path, tmp_path: Path, ask: Ask, capfd: pytest.CaptureFixture[str]) -> None:
    double = timed.products(tmp_path, 100, "double")
    code, parsed = ask("compare", net, double, *SHORT)
    assert code == 1
    assert parsed["error"] is None
    (one,) = parsed["result"]["comparisons"]
    assert one["verdict"] == "slower"
    assert one["ratio"]["low"] > 1.5
    assert run(["compare", str(double), str(net), *SHORT]) == 0
    assert capfd.readouterr().out.endswith(": faster\n")


def test_models_that_compute_different_things_are_exit_1(ask: Ask, net: Path, tmp_path: Path) -> None:
    import numpy as np
    import onnx

    model = onnx.load(net)
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(2 * np.eye(64, dtype=np.float32), "w"))
    onnx.save(model, tmp_path / "other.onnx")
    code, parsed = ask("compare", net, tmp_path / "other.onnx", *SHORT)
    assert code == 1
    assert parsed["result"]["refused"]["code"] == "outputs-differ"
    assert parsed["result"]["comparisons"] == []


def test_models_with_different_inputs_are_bad_input(ask: Ask, net: Path, tmp_path: Path) -> None:
    other = timed.products(tmp_path, 20, "other", source="z")
    code, parsed = ask("compare", net, other)
    assert code == 2
    assert parsed["error"]["code"] == "inputs-differ"


def test_figures_that_cannot_be_written(ask: Ask, net: Path, tmp_path: Path) -> None:
    code, parsed = ask("bench", net, *BRIEF, "-o", tmp_path / "nowhere" / "out.json")
    assert code == 2
    assert parsed["error"]["code"] == "output-not-writable"


def test_a_deadline_that_is_missed_is_exit_1(ask: Ask, net: Path) -> None:
    code, parsed = ask("bench", net, *BRIEF, "--deadline", "60s")
    assert code == 0
    (figure,) = parsed["result"]["cells"][0]["figures"]
    assert figure["deadline"]["verdict"] == "met"
    assert figure["deadline"]["runs"] == figure["runs"]
    code, parsed = ask("bench", net, *BRIEF, "--deadline", "0.0001ms", "--misses", "50")
    assert (code, parsed["ok"], parsed["error"]) == (1, False, None)
    (figure,) = parsed["result"]["cells"][0]["figures"]
    assert figure["deadline"]["finding"]["code"] == "deadline-missed"
    assert figure["deadline"]["share"]["value"] == 1.0
    assert "50 % may: missed" in figure["deadline"]["finding"]["message"]


def test_memory_comes_first_on_the_edge(net: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", str(net), *SHORT, "--use", "edge", "--cpus", "0", "--memory-limit", "512MiB"]) == 0
    text = capfd.readouterr().out
    assert "peak memory: net " in text
    head = next(line for line in text.splitlines() if "memory" in line and "p50" in line)
    assert head.index("memory") < head.index("p50")
