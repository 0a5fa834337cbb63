"""Execution providers that come in packages of their own: figures of the kind that they are, or a code."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import normfold
import timed
from normfold.cli.application import run
from normfold.errors import NormfoldError, UsageError
from normfold.measure import Candidate, Cell, Conditions, Effort, Experiment, SessionProfile, measure, open_candidate
from normfold.measure.checks import check_outputs
from normfold.report.blocks import Detail
from normfold.report.schema import BENCH_FILE, schema
from normfold.report.text import plain
from normfold.runtime.session_profile import in_precision
from normfold.runtime.targets import LOCAL, Target, find
from normfold.runtime.workers.plugins import PLUGINS, settings
from normfold.verbs.readings import reading_blocks
from normfold.verbs.timing import on_each

BRIEF = Effort(first=2, most=2, per_process=0.05, warm_up=0.005, time_limit=120.0, copies=1, control=False)
ON_ANOTHER_MACHINE = replace(LOCAL, name="x86 board", kinds={})
"""One that does not know that it has no such processor."""


def installed(provider: str) -> bool:
    return importlib.util.find_spec(PLUGINS[provider].module) is not None


def conv(folder: Path) -> Path:
    """A convolution and a ReLU, of any number of pictures."""
    rng = np.random.default_rng(0)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["h"], pads=[1, 1, 1, 1], name="conv"),
            helper.make_node("Relu", ["h"], ["y"], name="relu"),
        ],
        "conv",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4, 8, 8])],
        [numpy_helper.from_array(rng.standard_normal((4, 3, 3, 3)).astype(np.float32), "w")],
    )
    return timed.saved(folder, "conv", graph)


def measured(path: Path, target: Target, *profiles: SessionProfile) -> Cell:
    with open_candidate(path) as model:
        candidates = tuple(replace(model, name=one.provider, profile=one) for one in profiles)
        return measure(Experiment(candidates, Conditions(target=target.name), BRIEF, target=target))


@pytest.mark.parametrize("provider", PLUGINS)
def test_one_that_is_absent_comes_with_its_command(provider: str, tmp_path: Path) -> None:
    if installed(provider):
        pytest.skip(f"{PLUGINS[provider].package} is installed")
    short = provider.removesuffix("ExecutionProvider").lower()
    cell = measured(timed.products(tmp_path, 2), LOCAL, SessionProfile(short))
    assert cell.refused is not None
    assert (cell.refused.code, cell.refused.exit_code) == ("provider-unavailable", 3)
    assert f"pip install {PLUGINS[provider].package}" in cell.refused.message


def test_without_the_compiler_there_is_its_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    if installed("QNNExecutionProvider"):
        pytest.skip("onnxruntime-qnn is installed")
    assert run(["bench", str(conv(tmp_path)), "--ep", "qnn"]) == 3
    assert "pip install onnxruntime-qnn" in capfd.readouterr().out


@pytest.mark.skipif(not LOCAL.kinds, reason="only x86 machines emulate a Hexagon processor")
@pytest.mark.skipif(not installed("QNNExecutionProvider"), reason="no QNN: pip install onnxruntime-qnn")
def test_what_the_compiler_takes_and_what_its_emulator_computes(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path, out = conv(tmp_path), tmp_path / "out.json"
    assert run(["bench", str(path), "--ep", "qnn", "--batch", "2", "-o", str(out)]) == 0
    said = capfd.readouterr().out
    assert "nodes compiled" in said
    assert " ms" not in said
    document = json.loads(out.read_text())
    jsonschema.validate(document, schema(BENCH_FILE))
    compiled, emulated = document["cells"][0]["figures"]
    assert (compiled["kind"], compiled["deviation"], emulated["kind"]) == ("compiled", None, "emulated")
    assert compiled["compiled"]["elsewhere"] == []
    assert compiled["compiled"]["operators"]["QNNExecutionProvider"]["Conv"] == 1
    assert compiled["compiled"]["context_bytes"] > 0
    assert emulated["deviation"] <= 1e-3


COMPILING = """
from normfold.runtime.workers import timing
from normfold.runtime.workers.protocol import RefusedError
def compiled(worker, request):
    assert request["session"]["dimensions"] == {{"N": 2}}
    return {{"context_bytes": 5}}
def refused(worker, request): raise RefusedError("{kind}", "no such tensor")
timing.VERBS["compile"] = compiled
if "{kind}": timing.VERBS["bind"] = refused
timing.main()
"""


def compiling(kind: str) -> Target:
    """A machine whose processor counts as another one's, which is compiled for; its emulator fails with ``kind``."""
    command = (sys.executable, "-P", "-c", COMPILING.format(kind=kind))
    return replace(LOCAL, kinds={"cpu": "compiled"}, command=command)


@pytest.mark.parametrize(("kind", "figures"), [("", ["compiled", "emulated"]), ("run", ["compiled"])])
def test_what_does_not_run_in_the_emulator_may_be_compiled(tmp_path: Path, kind: str, figures: list[str]) -> None:
    target = compiling(kind)
    with open_candidate(conv(tmp_path)) as model:
        where = Conditions(target=target.name, batch=2)
        cell = measure(Experiment((model,), where, BRIEF, target=target))
    assert cell.refused is None
    assert [one.kind for one in cell.readings] == figures
    compiled = cell.readings[0].compiled
    assert compiled is not None
    assert (compiled.context_bytes, compiled.elsewhere, compiled.operators["CPUExecutionProvider"]["Conv"]) == (
        5,
        (),
        1,
    )
    assert any("does not run in the emulator" in words for words in cell.warnings) is (kind == "run")
    for detail in Detail:
        assert ("nothing ran" in plain(reading_blocks((model,), cell, detail))) is (kind == "run")


def test_an_emulator_that_dies_is_no_figure(tmp_path: Path) -> None:
    target = compiling("memory")
    with open_candidate(conv(tmp_path)) as model:
        cell = measure(Experiment((model,), Conditions(target=target.name, batch=2), BRIEF, target=target))
    assert cell.refused is not None
    assert cell.refused.code == "out-of-memory"


def test_no_figures_of_two_kinds_beside_each_other(tmp_path: Path) -> None:
    target = replace(LOCAL, kinds={"qnn": "compiled"})
    cell = measured(timed.products(tmp_path, 2), target, SessionProfile(), SessionProfile("qnn"))
    assert cell.refused is not None
    assert (cell.refused.code, cell.refused.exit_code) == ("target-unsupported", 2)


@pytest.mark.skipif(not LOCAL.kinds, reason="only x86 machines emulate a Hexagon processor")
def test_an_emulation_is_never_timed(tmp_path: Path) -> None:
    """Not on a board that turns out to be one of x86 either."""
    cell = measured(timed.products(tmp_path, 2), ON_ANOTHER_MACHINE, SessionProfile("qnn"))
    assert cell.refused is not None
    assert cell.refused.code == "target-unsupported"
    assert "only emulates qnn" in cell.refused.message
    with pytest.raises(UsageError, match="a deadline on qnn"):
        normfold.bench(timed.products(tmp_path, 2), ep="qnn", deadline=0.1)
    with pytest.raises(UsageError, match="tuning on qnn"):
        normfold.tune(timed.products(tmp_path, 2), ep="qnn")
    with pytest.raises(UsageError, match="timing norms on qnn"):
        normfold.advise(timed.products(tmp_path, 2), ep="qnn")
    with pytest.raises(UsageError, match="comparing models on qnn"):
        normfold.compare(timed.products(tmp_path, 2), timed.products(tmp_path, 3), ep="qnn")


def test_a_model_is_measured_on_each_provider(tmp_path: Path) -> None:
    """Where one of them is absent, that is what there is to say."""
    path = timed.products(tmp_path, 2)
    done = normfold.bench(path, ep=["cpu", "cpu"], effort=replace(BRIEF, details=False))
    assert [one.name for one in done.models] == ["products2"]
    (cell,) = normfold.bench(path, ep="cpu,dnnl", effort=BRIEF).cells
    assert cell.refused is not None
    assert cell.refused.code == "provider-unavailable"
    with open_candidate(path) as model:
        both = on_each((model,), (SessionProfile(), SessionProfile("dnnl")))
    assert [(one.name, one.profile.provider) for one in both] == [
        ("products2 (cpu)", "cpu"),
        ("products2 (dnnl)", "dnnl"),
    ]


def test_the_precision_is_stated_in_the_providers_own_words() -> None:
    profile = in_precision(SessionProfile("openvino"), "bf16")
    found = settings("OpenVINOExecutionProvider", profile.provider_options)
    assert json.loads(found["load_config"]) == {"CPU": {"INFERENCE_PRECISION_HINT": "bf16"}}
    assert "precision" not in found
    assert settings("OpenVINOExecutionProvider", {"num_streams": "1"}) == {"num_streams": "1"}
    assert settings("QNNExecutionProvider", {}) == {"backend_type": "htp"}
    assert settings("QNNExecutionProvider", {"backend_type": "gpu"}) == {"backend_type": "gpu"}


@pytest.mark.parametrize(("provider", "precision"), [("cpu", "f32"), ("cuda", "f16"), ("openvino", "int4")])
def test_a_precision_that_cannot_be_chosen_is_refused(provider: str, precision: str) -> None:
    with pytest.raises(UsageError) as caught:
        in_precision(SessionProfile(provider), precision)
    assert "openvino" in caught.value.hint


def test_a_stated_precision_is_what_outputs_are_held_to(tmp_path: Path) -> None:
    """The default is not: what computes in less by itself is refused."""
    truth = np.linspace(-1.0, 1.0, 1000, dtype=np.float32).reshape(10, 100)
    rounded = {"y": truth + np.float32(0.01)}
    with open_candidate(timed.products(tmp_path, 1)) as model:
        plain = replace(model, profile=SessionProfile("openvino"))

        def deviation(candidate: Candidate) -> float:
            return check_outputs(candidate, model, {"y": truth}, rounded, None)

        for precision in ("bf16", "f16"):
            assert deviation(replace(model, profile=in_precision(plain.profile, precision))) > 1e-3
        for candidate in (plain, replace(model, profile=in_precision(plain.profile, "f32"))):
            with pytest.raises(NormfoldError) as caught:
                deviation(candidate)
            assert caught.value.code == "outputs-differ"


def test_precision_on_the_command_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = str(timed.products(tmp_path, 1))
    assert run(["bench", path, "--precision", "f16"]) == 2
    assert "cannot be told to compute in f16" in capfd.readouterr().err
    assert run(["bench", path, "--ep", "openvino", "--precision", "f64"]) == 2
    if not installed("OpenVINOExecutionProvider"):
        assert run(["bench", path, "--ep", "cpu,openvino", "--precision", "f32"]) == 3
        assert "pip install onnxruntime-ep-openvino" in capfd.readouterr().out


BROWSER = find("browser")
browser = pytest.mark.skipif(bool(BROWSER.missing), reason=f"{BROWSER.missing}: {BROWSER.install}")


@pytest.mark.slow
@browser
def test_a_software_rasteriser_gives_numerics_and_no_times(tmp_path: Path) -> None:
    cell = measured(conv(tmp_path), find("browser"), SessionProfile("webgpu"))
    assert cell.refused is None
    (reading,) = cell.readings
    assert (reading.kind, cell.figures) == ("emulated", ())
    assert reading.deviation is not None
    assert reading.deviation <= 1e-5


@pytest.mark.slow
@browser
def test_nodes_that_the_rasteriser_does_not_run_are_a_code(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Det", ["x"], ["y"])],
        "det",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
    )
    path = timed.saved(tmp_path, "det", graph)
    cell = measured(path, find("browser"), SessionProfile("webgpu"))
    assert cell.refused is not None
    assert (cell.refused.code, cell.refused.exit_code) == ("provider-fallback", 3)
    with open_candidate(path, profile=SessionProfile("webgpu")) as model:
        target = find("browser")
        where = Conditions(target=target.name)
        allowed = measure(Experiment((model,), where, BRIEF, target=target, allow_fallback=True))
    assert allowed.refused is None
