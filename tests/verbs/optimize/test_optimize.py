"""`normfold.optimize` from end to end, on networks small enough to be quick."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import numpy as np
import onnx
import onnxruntime
import pytest

import normfold
from folding import array, model
from normfold.cli.application import run
from normfold.errors import NormfoldError
from normfold.measure.candidate import Effort
from normfold.measure.statistics import Comparison, Interval
from normfold.measure.tune.changes import Change
from normfold.measure.tune.search import Trial
from normfold.pipeline.stages import digest
from normfold.report.schema import schema
from normfold.verbs.optimize import job

QUICK = Effort(first=2, most=2, per_process=0.05, warm_up=0.01, copies=1, time_limit=20.0)
WRITTEN = {"model.onnx", "report.json", "report.html", "MODEL.md", "model.cdx.json", ".normfold"}


def network() -> onnx.ModelProto:
    body = [
        "[c1] a = Conv<pads=[1,1,1,1]>(x, w1, b1)",
        "[n1] n = BatchNormalization(a, g, b, m, v)",
        "[r1] r = Relu(n)",
        "[c2] c = Conv<pads=[1,1,1,1]>(r, w2)",
        "[s] s = Add(c, r)",
        "[p] p = GlobalAveragePool(s)",
        "[f] f = Flatten(p)",
        "[g] y = Gemm<transB=1>(f, w3, b3)",
    ]
    held = {
        "w1": array(16, 4, 3, 3),
        "b1": array(16, seed=1),
        "g": array(16, seed=2),
        "b": array(16, seed=3),
        "m": array(16, seed=4),
        "v": np.abs(array(16, seed=5)) + 0.5,
        "w2": array(16, 16, 3, 3, seed=6),
        "w3": array(8, 16, seed=7),
        "b3": array(8, seed=8),
    }
    return model("float[N,4,12,12] x", body, held)


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("net") / "net.onnx"
    onnx.save(network(), file)
    return file


@pytest.fixture(scope="module")
def done(net: Path) -> normfold.OptimizeResult:
    folder = net.parent / "out"
    return normfold.optimize(net, output=folder, effort=QUICK, without=("tune",), threads=1)


def whole(result: normfold.OptimizeResult) -> dict:
    document = {
        "schema": "normfold/1",
        "command": "optimize",
        "ok": result.refused is None,
        "error": None,
        "result": result.document(),
    }
    parsed = json.loads(json.dumps(document, allow_nan=False))
    jsonschema.validate(parsed, schema())
    return parsed


def test_it_hands_over_everything(net: Path, done: normfold.OptimizeResult) -> None:
    folder = net.parent / "out"
    assert {file.name for file in folder.iterdir()} == WRITTEN
    assert whole(done) == json.loads((folder / "report.json").read_text())
    assert digest(folder / "model.onnx") == done.document()["sha256"]
    onnx.checker.check_model(str(folder / "model.onnx"), full_check=True)


def test_what_it_hands_over_is_not_slower_and_computes_the_same(net: Path, done: normfold.OptimizeResult) -> None:
    found = done.document()
    assert found["chosen"] in ("fold", "source")
    if found["chosen"] == "fold":
        assert found["times"]["fold"]["verdict"] != "slower"
        assert {one.outcome for one in done.decisions} == {"folded"}
    assert done.verification.status == "equivalent"
    x = np.random.default_rng(0).standard_normal((3, 4, 12, 12)).astype(np.float32)
    ours, theirs = (
        onnxruntime.InferenceSession(str(file)).run(None, {"x": x})[0]
        for file in (net.parent / "out" / "model.onnx", net)
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_the_lines_load_the_result(net: Path, done: normfold.OptimizeResult) -> None:
    lines = done.document()["load"]
    assert len(lines) == 3
    scope = {"x": np.zeros((1, 4, 12, 12), np.float32)}
    exec("\n".join(lines), scope)  # noqa: S102 - that is what they are for
    assert scope["outputs"][0].shape == (1, 8)
    assert all(line in str(done) for line in lines)


def test_a_second_run_does_nothing_again(net: Path, done: normfold.OptimizeResult) -> None:
    again = normfold.optimize(net, output=net.parent / "out", effort=QUICK, without=("tune",), threads=1).document()
    assert {one["stage"] for one in again["stages"] if one["resumed"]} == {"fold", "measure"}
    assert again["sha256"] == done.document()["sha256"]
    assert again["times"] == done.document()["times"]


def test_only_what_an_option_changes_is_done_again(net: Path, done: normfold.OptimizeResult, tmp_path: Path) -> None:
    more = normfold.optimize(net, output=net.parent / "out", effort=QUICK, without=("tune",), threads=2).document()
    assert [one["stage"] for one in more["stages"] if one["resumed"]] == ["fold"]


def test_the_source_is_never_touched(net: Path, done: normfold.OptimizeResult) -> None:
    assert onnx.load(net) == network()


def test_undo_gives_the_source_back(net: Path, done: normfold.OptimizeResult, tmp_path: Path) -> None:
    back = normfold.undo(net.parent / "out", output=tmp_path / "back.onnx")
    assert (tmp_path / "back.onnx").read_bytes() == net.read_bytes()
    assert back.sha256 == digest(net)


def test_undo_says_where_it_looked(net: Path, done: normfold.OptimizeResult, tmp_path: Path) -> None:
    report = json.loads((net.parent / "out" / "report.json").read_text())
    report["result"]["source"] |= {"path": str(tmp_path / "gone.onnx")}
    (tmp_path / "report.json").write_text(json.dumps(report))
    with pytest.raises(NormfoldError) as caught:
        normfold.undo(tmp_path)
    assert caught.value.code == "file-not-found"
    assert str(tmp_path / "gone.onnx") in caught.value.message
    (tmp_path / "gone.onnx").write_bytes(b"another model")
    with pytest.raises(NormfoldError):
        normfold.undo(tmp_path)


@pytest.mark.parametrize("held", [None, "{", '{"command": "fold", "result": {}}'])
def test_undo_wants_a_folder_of_optimize(tmp_path: Path, held: str | None) -> None:
    if held is not None:
        (tmp_path / "report.json").write_text(held)
    with pytest.raises(NormfoldError) as caught:
        normfold.undo(tmp_path)
    assert caught.value.code == "usage"


def test_a_dry_run_says_the_plan_and_writes_nothing(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(net.parent.rglob("*"))
    result = normfold.optimize(net, dry_run=True)
    plan = {entry["stage"]: entry for entry in whole(result)["result"]["plan"]}
    assert plan["fold"]["does"] == "1 norm: 1 folded"
    assert "--evaluate" in plan["quantize"]["because"]
    assert result.model is None
    assert run(["optimize", str(net), "--dry-run", "--json"]) == 0
    jsonschema.validate(json.loads(capsys.readouterr().out), schema())
    assert sorted(net.parent.rglob("*")) == before


def test_a_limit_that_is_missed_is_a_finding(net: Path, done: normfold.OptimizeResult, tmp_path: Path) -> None:
    options = {"effort": QUICK, "without": ("tune",), "threads": 1, "max_latency": "0.001x"}
    result = normfold.optimize(net, output=tmp_path / "out", **options)
    assert result.refused is not None
    assert result.refused.code == "budget-missed"
    assert not (tmp_path / "out" / "model.onnx").exists()
    assert whole(result)["result"]["output"] is None
    forced = normfold.optimize(net, output=tmp_path / "out", force=True, **options)
    assert forced.refused is not None
    assert (tmp_path / "out" / "model.onnx").is_file()


@pytest.mark.slow
def test_a_module_and_a_program_are_exported(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    layers = [torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.BatchNorm2d(4), torch.nn.Conv2d(4, 2, 1)]
    module = torch.nn.Sequential(*layers).eval()
    x = torch.zeros(2, 3, 8, 8)
    options = {"effort": QUICK, "without": ("tune",), "threads": 1}
    of_module = normfold.optimize(module, (x,), output=tmp_path / "module", **options).document()
    free = ({0: torch.export.Dim("n", min=1, max=16)},)
    torch.export.save(torch.export.export(module, (x,), dynamic_shapes=free), tmp_path / "net.pt2")
    of_program = normfold.optimize(tmp_path / "net.pt2", output=tmp_path / "program", **options).document()
    assert [of_module["source"]["kind"], of_program["source"]["kind"]] == ["module", "program"]
    for found in (of_module, of_program):
        assert found["stages"][0]["stage"] == "export"
        assert len(found["decisions"]) == 1
    (given,) = onnx.load(tmp_path / "program" / "model.onnx").graph.input
    assert [one.dim_param or one.dim_value for one in given.type.tensor_type.shape.dim] == ["batch", 3, 8, 8]
    assert normfold.undo(tmp_path / "program", output=tmp_path / "back.pt2").sha256 == digest(tmp_path / "net.pt2")


def test_two_inputs(tmp_path: Path) -> None:
    body = ["[m] z = MatMul(a, w)", "[n] n = BatchNormalization(z, g, g, g, g)", "[s] y = Add(n, b)"]
    held = {"w": array(6, 5), "g": np.abs(array(5, seed=1)) + 0.5}
    onnx.save(model("float[N,6] a, float[N,5] b", body, held), tmp_path / "two.onnx")
    found = normfold.optimize(
        tmp_path / "two.onnx", output=tmp_path / "out", effort=QUICK, without=("tune",)
    ).document()
    assert found["load"][-1].endswith("{'a': a, 'b': b})")


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({}, "usage"),
        ({"output": "o", "metric": "top1"}, "usage"),
        ({"output": "o", "max_drop": 1.0}, "usage"),
        ({"output": "o", "evaluate": "x.npz", "metric": "mse"}, "usage"),
        ({"output": "o", "evaluate": "x.npz", "max_drop": -1.0}, "usage"),
        ({"output": "o", "evaluate": "x.npz"}, "bad-data"),
        ({"output": "o", "evaluate": "x.npz", "metric": "topp"}, "bad-metric"),
        ({"output": "o", "without": ("fold",)}, "usage"),
        ({"output": "o", "width": "int3"}, "usage"),
        ({"output": "o", "ep": "cqu"}, "usage"),
        ({"output": "o", "ep": "qnn"}, "provider-unavailable"),
        ({"output": "o", "max_latency": "soon"}, "usage"),
        ({"output": "o", "example_inputs": 1}, "usage"),
    ],
)
def test_what_cannot_be_asked_for(net: Path, tmp_path: Path, options: dict, code: str) -> None:
    if "output" in options:
        options = options | {"output": tmp_path / "o"}
    with pytest.raises(NormfoldError) as caught:
        normfold.optimize(net, **options)
    assert caught.value.code == code


def test_labels_that_are_missing_are_missed_at_once(net: Path, tmp_path: Path) -> None:
    data = {"x": np.zeros((4, 4, 12, 12), np.float32)}
    with pytest.raises(NormfoldError) as caught:
        normfold.optimize(net, output=tmp_path / "out", evaluate=data)
    assert (caught.value.code, "no labels" in caught.value.message) == ("bad-data", True)
    assert not list((tmp_path / "out" / ".normfold").glob("fold-*"))


def test_a_damaged_file(tmp_path: Path) -> None:
    (tmp_path / "cut.onnx").write_bytes(network().SerializeToString()[:900])
    with pytest.raises(NormfoldError) as caught:
        normfold.optimize(tmp_path / "cut.onnx", output=tmp_path / "out")
    assert caught.value.code == "not-onnx"
    (tmp_path / "cut.pt2").write_bytes(b"PK\x03\x04")
    with pytest.raises(NormfoldError) as caught:
        normfold.optimize(tmp_path / "cut.pt2", output=tmp_path / "out")
    assert caught.value.code in ("bad-module", "missing-package")


def test_the_result_does_not_take_the_place_of_its_source(tmp_path: Path) -> None:
    onnx.save(network(), tmp_path / "model.onnx")
    for given in (tmp_path / "model.onnx", str(tmp_path / "model.onnx")):
        with pytest.raises(NormfoldError) as caught:
            normfold.optimize(given, output=tmp_path)
        assert caught.value.code == "output-is-input"
    assert onnx.load(tmp_path / "model.onnx") == network()


def test_the_command_prints_markdown(
    net: Path, done: normfold.OptimizeResult, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["optimize", str(net), "--dry-run", "--markdown"]) == 0
    assert "| stage | does |" in capsys.readouterr().out


@pytest.mark.slow
def test_an_interrupted_run_goes_on_where_it_stopped(net: Path, tmp_path: Path) -> None:
    """The command is interrupted while it measures; what was folded is not folded again."""
    command = [sys.executable, "-m", "normfold", "optimize", str(net), "-o", str(tmp_path / "out"), "--without", "tune"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        until = time.monotonic() + 60
        while not list((tmp_path / "out" / ".normfold").glob("fold-*")):
            assert time.monotonic() < until
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    assert not (tmp_path / "out" / "model.onnx").exists()
    found = normfold.optimize(net, output=tmp_path / "out", effort=QUICK, without=("tune",)).document()
    assert [one["stage"] for one in found["stages"] if one["resumed"]] == ["fold"]


def test_the_accuracy_on_shifted_inputs(net: Path, done: normfold.OptimizeResult, tmp_path: Path) -> None:
    data = np.random.default_rng(0).standard_normal((16, 4, 12, 12)).astype(np.float32)
    result = normfold.optimize(
        net,
        output=net.parent / "out",
        evaluate={"x": data},
        metric="cosine",
        shift=("noise", "contrast"),
        effort=QUICK,
        without=("quantize", "tune"),
        threads=1,
    )
    found = whole(result)["result"]
    if found["chosen"] == "fold":
        assert found["accuracy"]["after"] == pytest.approx(1.0)
        assert [one["method"] for one in found["shifted"].values()] == ["t", "t"]
        assert "cosine, noise" in str(result)


@pytest.mark.slow
def test_quantising_within_the_budget(net: Path, tmp_path: Path) -> None:
    data = np.random.default_rng(0).standard_normal((64, 4, 12, 12)).astype(np.float32)
    result = normfold.optimize(
        net, output=tmp_path / "out", evaluate={"x": data}, metric="cosine", max_drop=1e-9, effort=QUICK, threads=1
    )
    quantized = next(one for one in result.document()["stages"] if one["stage"] == "quantize")
    assert quantized["outcome"] == "refused"
    assert quantized["refused"]["code"] in ("budget-missed", "not-faster")
    assert result.document()["accuracy"] is None or result.document()["accuracy"]["drop"] <= 1e-9
    whole(result)


def test_a_run_without_time_to_measure_says_that_it_can_go_on(net: Path, tmp_path: Path) -> None:
    with pytest.raises(NormfoldError) as caught:
        normfold.optimize(net, output=tmp_path / "out", effort=replace(QUICK, time_limit=0.01), without=("tune",))
    assert caught.value.code == "timed-out"
    assert "goes on there" in caught.value.hint
    assert list((tmp_path / "out" / ".normfold").glob("fold-*"))


def test_session_settings_are_written_where_they_pay(
    net: Path, done: normfold.OptimizeResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    ratio = Interval(0.8, 0.79, 0.81)
    change = Change("basic optimisations", "level", {"options": {"graph_optimization_level": "ORT_ENABLE_BASIC"}})
    trial = Trial("confirmed", (change,), Comparison(ratio, 0.01, found=True, verdict="faster"))
    profile = normfold.SessionProfile(options={"graph_optimization_level": "ORT_ENABLE_BASIC"})
    tuned = SimpleNamespace(confirmed=trial, better=True, profile=profile)
    monkeypatch.setattr("normfold.verbs.optimize.job.tune", lambda *_, **__: tuned)
    result = normfold.optimize(net, output=net.parent / "tuned", effort=QUICK, threads=1)
    found = whole(result)["result"]
    assert found["files"]["session"] == "session.json"
    assert json.loads((net.parent / "tuned" / "session.json").read_text()) == profile.to_json()
    assert "open_session" in "".join(found["load"])
    scope = {"inputs": {"x": np.zeros((1, 4, 12, 12), np.float32)}}
    exec("\n".join(found["load"]), scope)  # noqa: S102 - that is what they are for
    assert scope["outputs"][0].shape == (1, 8)
    assert "0.8x of that time again (0.79 to 0.81)" in str(result)
    plain = normfold.optimize(net, output=net.parent / "tuned", effort=QUICK, threads=1, without=("tune",))
    assert plain.document()["session"] is None
    assert not (net.parent / "tuned" / "session.json").exists()


def test_one_process_has_no_interval(done: normfold.OptimizeResult) -> None:
    found = json.loads(json.dumps(done.document()))
    for one in found["times"].values():
        one["ratio"] |= {"low": None, "high": None}
    found["figures"]["after"]["ms"] |= {"low": None, "high": None}
    said = str(normfold.OptimizeResult(found))
    assert "inf" not in said.replace("inference", "").replace("InferenceSession", "")
    assert "no interval" in said or found["chosen"] == "source"


def quantized(code: str | None, verdict: str, ratio: float) -> dict:
    refused = None if code is None else {"code": code, "message": "", "hint": ""}
    return {"quantize": {"refused": refused, "latency": {"verdict": verdict, "ratio": {"value": ratio}}}}


@pytest.mark.parametrize(
    ("found", "stays"),
    [
        (quantized(None, "faster", 0.5), True),
        (quantized("not-faster", "inconclusive", 0.63), True),
        (quantized("not-faster", "inconclusive", 1.1), False),
        (quantized("not-faster", "slower", 1.5), False),
        (quantized("not-faster", "equivalent", 0.999), False),
        (quantized("budget-missed", "faster", 0.5), False),
        (quantized("result-differs", "inconclusive", 0.5), False),
    ],
)
def test_a_quantised_model_that_may_be_faster_is_timed_again(found: dict, stays: bool) -> None:
    assert (job.refusal(found) is None) is stays


@pytest.mark.parametrize(
    ("stage", "verdict", "ratio", "sure", "gains"),
    [
        ("fold", "inconclusive", 1.01, False, True),
        ("convert", "faster", 0.9, False, True),
        ("convert", "inconclusive", 0.9, True, False),
        ("quantize", "faster", 0.5, False, True),
        ("quantize", "inconclusive", 0.9, True, True),
        ("quantize", "inconclusive", 0.9, False, False),
        ("quantize", "inconclusive", 1.1, True, False),
        ("quantize", "equivalent", 0.999, True, False),
    ],
)
def test_what_a_stage_has_to_gain(stage: str, verdict: str, ratio: float, sure: bool, gains: bool) -> None:
    against = Comparison(Interval(ratio, ratio - 0.01, ratio + 0.01), 0.0, found=True, verdict=verdict)
    assert job.gains(stage, against, sure=sure) is gains
