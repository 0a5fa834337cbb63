"""The verbs as a user calls them: what is written, what is printed, which exit code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jsonschema
import numpy as np
import onnx
import pytest

import nets
from normfold.cli.application import run
from normfold.report.schema import schema

Ask = Callable[..., tuple[int, dict]]


@pytest.fixture
def ask(capfd: pytest.CaptureFixture[str]) -> Ask:
    """Run a command with --json; its exit code and its document, which is all that stdout may hold."""

    def call(*arguments: object) -> tuple[int, dict]:
        capfd.readouterr()
        code = run([*map(str, arguments), "--json"])
        captured = capfd.readouterr().out
        assert captured.count("\n") == 1
        parsed = json.loads(captured)
        jsonschema.validate(parsed, schema())
        assert parsed["ok"] is (code == 0)
        assert (parsed["error"] is not None) is (code > 1)
        return code, parsed

    return call


@pytest.fixture
def net(tmp_path: Path) -> Path:
    return saved(tmp_path, "net.onnx", nets.conv_bn())


def saved(folder: Path, name: str, model: onnx.ModelProto) -> Path:
    onnx.save(model, folder / name)
    return folder / name


def test_fold(ask: Ask, net: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    code, parsed = ask("fold", net, "-o", out)
    assert code == 0
    assert parsed["command"] == "fold"
    result = parsed["result"]
    assert result["counts"] == {
        "norms": 2,
        "folded": 2,
        "part_folded": 0,
        "lowered": 0,
        "converted": 0,
        "quantized": 0,
        "kept": 0,
        "scales": 0,
    }
    assert [decision["site"] for decision in result["decisions"]] == ["bn1", "bn2"]
    assert [decision["into"] for decision in result["decisions"]] == [["conv1"], ["conv2"]]
    assert result["verification"]["status"] == "equivalent"
    assert result["output"] == str(out)
    assert [node.op_type for node in onnx.load(out).graph.node] == ["Conv", "Relu", "Conv", "Relu"]


def test_fold_in_words(net: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["fold", str(net), "-o", str(tmp_path / "out.onnx")]) == 0
    captured = capfd.readouterr()
    assert "2 norms: 2 folded" in captured.out
    assert "verification: equivalent" in captured.out
    assert captured.err == ""
    assert run(["fold", str(net), "-o", str(tmp_path / "out.onnx"), "--quiet"]) == 0
    assert len(capfd.readouterr().out.splitlines()) == 2


@pytest.mark.parametrize("model", [nets.no_norm(), nets.lone_norm()], ids=["no-norm", "lone-norm"])
def test_the_output_is_written_although_nothing_folds(ask: Ask, tmp_path: Path, model: onnx.ModelProto) -> None:
    code, parsed = ask("fold", saved(tmp_path, "m.onnx", model), "-o", tmp_path / "out.onnx")
    assert code == 0
    assert parsed["result"]["counts"]["folded"] == 0
    assert (tmp_path / "out.onnx").exists()


def test_dry_run_writes_nothing(ask: Ask, net: Path, tmp_path: Path) -> None:
    for options in ((), ("-o", tmp_path / "out.onnx")):
        code, parsed = ask("fold", net, "--dry-run", *options)
        assert code == 0
        assert parsed["result"]["counts"]["folded"] == 2
        assert parsed["result"]["verification"]["status"] == "skipped"
        assert parsed["result"]["output"] is None
        assert [file.name for file in tmp_path.iterdir()] == ["net.onnx"]


def test_only_and_skip(ask: Ask, net: Path) -> None:
    _, parsed = ask("fold", net, "--dry-run", "--only", "bn*", "--skip", "*2")
    assert [decision["outcome"] for decision in parsed["result"]["decisions"]] == ["folded", "kept"]
    assert parsed["result"]["decisions"][1]["refused_by"][0]["because"]


def test_a_pattern_that_matches_nothing_is_said(ask: Ask, net: Path, capfd: pytest.CaptureFixture[str]) -> None:
    _, parsed = ask("fold", net, "--dry-run", "--only", "bn1", "--only", "zz*", "--skip", "conv*")
    assert parsed["result"]["unmatched"] == ["zz*", "conv*"]
    assert run(["fold", str(net), "--dry-run", "--skip", "zz*"]) == 0
    assert "note: the pattern 'zz*' matches no norm; the first norm is 'bn1'" in capfd.readouterr().out


def test_sizes(ask: Ask, net: Path) -> None:
    size = ask("fold", net, "--dry-run")[1]["result"]["size"]
    assert size["before"]["nodes"] - size["after"]["nodes"] == 2
    assert size["before"]["macs"] == size["after"]["macs"] > 0


def test_no_verify(ask: Ask, net: Path, tmp_path: Path) -> None:
    code, parsed = ask("fold", net, "-o", tmp_path / "out.onnx", "--no-verify")
    assert code == 0
    assert parsed["result"]["verification"]["status"] == "skipped"
    assert (tmp_path / "out.onnx").exists()


def test_nowhere_to_write(ask: Ask, net: Path) -> None:
    code, parsed = ask("fold", net)
    assert (code, parsed["error"]["code"]) == (2, "usage")


def test_the_input_is_safe_without_in_place(ask: Ask, net: Path) -> None:
    before = net.read_bytes()
    code, parsed = ask("fold", net, "-o", net)
    assert (code, parsed["error"]["code"]) == (2, "output-is-input")
    assert net.read_bytes() == before
    code, parsed = ask("fold", net, "--in-place")
    assert code == 0
    assert net.read_bytes() != before
    assert parsed["result"]["output"] == str(net)


def test_a_missing_output_folder(ask: Ask, net: Path, tmp_path: Path) -> None:
    code, parsed = ask("fold", net, "-o", tmp_path / "no" / "such" / "folder.onnx")
    assert (code, parsed["error"]["code"]) == (2, "output-not-writable")


def test_an_existing_output_is_replaced(ask: Ask, net: Path, tmp_path: Path) -> None:
    (tmp_path / "out.onnx").write_bytes(b"old")
    assert ask("fold", net, "-o", tmp_path / "out.onnx")[0] == 0
    assert onnx.load(tmp_path / "out.onnx").graph.node


@pytest.mark.parametrize("verb", ["inspect", "fold", "verify"])
@pytest.mark.parametrize(
    ("damage", "code"),
    [
        ("missing", "file-not-found"),
        ("folder", "not-a-file"),
        ("empty", "empty-file"),
        ("text", "not-onnx"),
        ("short", "not-onnx"),
    ],
)
def test_damaged_inputs(ask: Ask, net: Path, tmp_path: Path, verb: str, damage: str, code: str) -> None:
    path = tmp_path / "damaged.onnx"
    whole = net.read_bytes()
    if damage == "folder":
        path.mkdir()
    elif damage != "missing":
        path.write_bytes(
            {"empty": b"", "text": b"Dear reader,\nthis is no model.\n", "short": whole[: len(whole) // 2]}[damage]
        )
    rest = {"inspect": (), "fold": ("-o", tmp_path / "out.onnx"), "verify": (net,)}[verb]
    exit_code, parsed = ask(verb, path, *rest)
    assert (exit_code, parsed["error"]["code"]) == (2, code)
    assert not (tmp_path / "out.onnx").exists()


def test_bad_inputs_for_the_comparison(ask: Ask, net: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "feeds.npz", z=np.zeros(3, np.float32))
    for options in (("--inputs", tmp_path / "feeds.npz"), ("--shape", "z=1x3"), ("--shape", "x=1x4x8x8")):
        code, parsed = ask("fold", net, "-o", tmp_path / "out.onnx", *options)
        assert (code, parsed["error"]["code"]) == (2, "bad-input")
        assert not (tmp_path / "out.onnx").exists()


def test_what_cannot_be_run_is_written_only_unverified(ask: Ask, tmp_path: Path) -> None:
    path, out = saved(tmp_path, "custom.onnx", nets.custom()), tmp_path / "out.onnx"
    code, parsed = ask("fold", path, "-o", out)
    assert (code, parsed["error"]["code"]) == (3, "unverified")
    assert "--no-verify" in parsed["error"]["hint"]
    assert parsed["result"]["verification"]["status"] == "unavailable"
    assert parsed["result"]["verification"]["because"]
    assert not out.exists()
    assert ask("fold", path, "-o", out, "--no-verify")[0] == 0
    assert out.exists()
    assert ask("verify", path, out)[0] == 3


def test_a_result_that_differs_is_exit_1(ask: Ask, net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from normfold.pipeline.prove import DiffersError
    from normfold.records import Decision, Verification
    from normfold.verbs import fold as folding

    def differs(*arguments, **options):
        decision = Decision("bn1", "BatchNormalization", "folded", into=("conv1",))
        raise DiffersError("result-differs", "It differs.", "", (decision,), Verification("different", max_rel=1.0))

    monkeypatch.setattr(folding, "fold", differs)
    code, parsed = ask("fold", net, "-o", tmp_path / "out.onnx")
    assert code == 1
    assert parsed["result"]["verification"]["status"] == "different"
    assert parsed["result"]["output"] is None


def test_verify(ask: Ask, net: Path, tmp_path: Path) -> None:
    code, parsed = ask("verify", net, saved(tmp_path, "same.onnx", nets.conv_bn()))
    assert (code, parsed["result"]["verification"]["status"]) == (0, "equivalent")
    code, parsed = ask("verify", net, saved(tmp_path, "other.onnx", nets.conv_bn(seed=1)), "--rtol", "1e-3")
    assert (code, parsed["result"]["verification"]["status"]) == (1, "different")
    assert parsed["result"]["verification"]["rtol"] == 1e-3


def test_inspect(ask: Ask, net: Path) -> None:
    code, parsed = ask("inspect", net)
    assert code == 0
    norms = parsed["result"]["norms"]
    assert [norm["site"] for norm in norms] == ["bn1", "bn2"]
    assert [norm["would"]["outcome"] for norm in norms] == ["folded", "folded"]
    assert norms[0]["norm"] == "BatchNormalization"


def test_env(ask: Ask) -> None:
    code, parsed = ask("env")
    assert code == 0
    assert "CPUExecutionProvider" in parsed["result"]["providers"]
    assert parsed["result"]["targets"][0]["name"] == "local"
    assert parsed["result"]["targets"][0]["available"]


def test_env_of_one_target(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["env", "--target", "local"]) == 0
    assert capfd.readouterr().out == "The target local can run here.\n"
    assert run(["env", "--target", "nowhere"]) == 2


@pytest.mark.slow
def test_demo(ask: Ask, tmp_path: Path) -> None:
    code, parsed = ask("demo", "-o", tmp_path / "out")
    assert code == 0
    result = parsed["result"]
    assert result["verification"]["status"] in ("equivalent", "within-budget")
    assert result["counts"]["norms"] == 10
    assert result["counts"]["folded"] >= 6
    assert result["accuracy"]["before"] > 0.99
    assert result["accuracy"]["before"] - result["accuracy"]["after"] <= 0.005
    assert result["optimized"]["configuration"]["max_drop"] == 0.5
    assert (tmp_path / "out" / "report.html").exists()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_without_rights(ask: Ask, net: Path, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    code, parsed = ask("fold", net, "-o", tmp_path / "locked" / "out.onnx")
    assert (code, parsed["error"]["code"]) == (2, "output-not-writable")


SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGQUIT, 131)]


@pytest.mark.parametrize(("number", "code"), SIGNALS)
@pytest.mark.parametrize("times", [1, 2])
def test_a_signal_leaves_nothing_behind(tmp_path: Path, number: int, code: int, times: int) -> None:
    folder, scratch = tmp_path / "out", tmp_path / "scratch"
    folder.mkdir()
    scratch.mkdir()
    net = saved(tmp_path, "net.onnx", nets.conv_bn())
    script = f"""
import os, signal
from normfold.proof.comparison import Comparison
def finish(*rest, **options):
    try:
        os.kill(os.getpid(), {int(number)})
    finally:
        if {times} > 1 and {int(number)} != signal.SIGINT:
            os.kill(os.getpid(), signal.SIGTERM)
Comparison.finish = finish
from normfold.cli import main
main(["fold", {str(net)!r}, "-o", {str(folder / "out.onnx")!r}])
"""
    environment = os.environ | {"TMPDIR": str(scratch)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, check=False, timeout=60)
    assert done.returncode == code
    assert b"Traceback" not in done.stderr
    assert list(folder.iterdir()) == []
    assert list(scratch.iterdir()) == []
