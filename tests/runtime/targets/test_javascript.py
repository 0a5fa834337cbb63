"""Node and a browser for real: figures, the same outputs as here, and an error with a code for all that goes wrong."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import timed
from normfold.cli.application import run
from normfold.measure import Cell, Conditions, Effort, Experiment, SessionProfile, measure, open_candidate
from normfold.measure.processes import Measurement
from normfold.models.data import UserInputs
from normfold.runtime.targets import Target, edge_tools, find

BRIEF = Effort(first=2, most=2, per_process=0.05, warm_up=0.005, time_limit=120.0, copies=1, control=False)


def here(name: str) -> pytest.MarkDecorator:
    target = find(name)
    return pytest.mark.skipif(bool(target.missing), reason=f"{target.missing}: {target.install}")


NODE = pytest.param("node", marks=here("node"))
BROWSER = pytest.param("browser", marks=[here("browser"), pytest.mark.slow])
BOTH = pytest.mark.parametrize("name", [NODE, BROWSER])


def measured(path: Path, target: Target, given: UserInputs | None = None, **conditions: int) -> Cell:
    with open_candidate(path) as model:
        where = Conditions(target=target.name, **conditions)
        return measure(Experiment((model,), where, BRIEF, given or UserInputs(), target=target))


@BOTH
def test_figures_and_the_same_outputs(name: str, tmp_path: Path) -> None:
    path = timed.products(tmp_path, 3, "net #1 ü?")
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="100% weights.bin", size_threshold=0)
    cell = measured(path, find(name), batch=3, threads=2)
    assert cell.refused is None
    (figure,) = cell.figures
    assert figure.deviation <= 1e-6
    assert min(figure.latency.value, figure.import_ns, figure.load_ns, figure.first_run_ns) > 0
    assert figure.details is not None
    assert figure.details.peak_rss is not None
    assert figure.details.peak_rss > 10 << 20
    operators = [(operator, provider, runs) for _name, operator, provider, runs, _time in figure.details.nodes]
    assert operators == ([("MatMul", "CPUExecutionProvider", 21)] * 3 if name == "node" else [])
    sample = cell.samples[0]
    assert sample.runtime_bytes > 5 << 20
    assert sample.onnxruntime == edge_tools.VERSIONS["onnxruntime-" + ("node" if name == "node" else "web")]


TYPES = ["float32", "float64", "float16", "int8", "uint8", "int32", "int64", "uint32", "uint64", "bool"]


@BOTH
def test_arrays_of_every_type_and_rank_come_back(name: str, tmp_path: Path) -> None:
    """Each is handed through; a scalar, a matrix in Fortran order and one without elements among them."""
    rng, shapes = np.random.default_rng(0), [(), (3,), (2, 3), (0, 2)]
    arrays, nodes, ins, outs = {}, [], [], []
    for index, kind in enumerate(TYPES):
        shape = shapes[index % len(shapes)]
        array = np.asarray(rng.integers(0, 2, shape) if kind == "bool" else rng.integers(0, 100, shape)).astype(kind)
        arrays[kind] = np.asfortranarray(array) if array.ndim == 2 else array
        element = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
        ins.append(helper.make_tensor_value_info(kind, element, shape))
        outs.append(helper.make_tensor_value_info(f"{kind}_out", element, shape))
        nodes.append(helper.make_node("Identity", [kind], [f"{kind}_out"]))
    path = timed.saved(tmp_path, "types", helper.make_graph(nodes, "types", ins, outs))
    cell = measured(path, find(name), UserInputs(arrays=arrays))
    assert cell.refused is None
    assert cell.figures[0].deviation == 0.0


@pytest.mark.parametrize("name", [NODE])
def test_other_outputs_are_a_finding(name: str, tmp_path: Path) -> None:
    """Random numbers differ wherever they are drawn."""
    graph = helper.make_graph(
        [
            helper.make_node("RandomNormalLike", ["x"], ["noise"]),
            helper.make_node("Add", ["x", "noise"], ["y"]),
        ],
        "noisy",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 64])],
    )
    cell = measured(timed.saved(tmp_path, "noisy", graph), find(name))
    assert cell.refused is not None
    assert (cell.refused.code, cell.refused.exit_code) == ("outputs-differ", 1)


@pytest.mark.parametrize("name", [NODE])
@pytest.mark.parametrize(
    ("profile", "code"),
    [
        (SessionProfile(disabled_optimizers=("GeluFusionL2",)), "target-unsupported"),
        (SessionProfile(options={"enable_mem_reuse": False}), "target-unsupported"),
        (SessionProfile(options={"graph_optimization_level": "ORT_DISABLE_ALL", "enable_mem_pattern": False}), None),
    ],
)
def test_settings_reach_the_session_or_are_refused(
    name: str, tmp_path: Path, profile: SessionProfile, code: str | None
) -> None:
    target = find(name)
    with open_candidate(timed.products(tmp_path, 2), profile=profile) as model:
        cell = measure(Experiment((model,), Conditions(target=name), BRIEF, target=target))
    assert (cell.refused.code if cell.refused else None) == code


@pytest.mark.parametrize("name", [NODE])
def test_a_model_that_it_cannot_run_is_refused(name: str, tmp_path: Path) -> None:
    """Values that JavaScript has no type for."""
    graph = helper.make_graph(
        [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.BFLOAT16)],
        "cast",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info("y", TensorProto.BFLOAT16, [2])],
        [numpy_helper.from_array(np.ones(1, np.float32), "unused")],
    )
    cell = measured(timed.saved(tmp_path, "cast", graph), find(name))
    assert cell.refused is not None
    assert cell.refused.code in {"not-runnable", "worker-died"}
    assert not cell.figures


CRASHING = """
import sys
from normfold.runtime.targets import browsing
def crash(worker, request): worker._browser._call("Page.crash")
browsing.VERBS["time"] = crash
sys.argv[1:] = {}
browsing.main()
"""


@pytest.mark.slow
@here("browser")
def test_a_page_that_crashes_is_a_worker_that_died(tmp_path: Path) -> None:
    target = find("browser")
    code = CRASHING.format(list(target.command[-2:]))
    cell = measured(timed.products(tmp_path, 2), replace(target, command=(sys.executable, "-P", "-c", code)))
    assert cell.refused is not None
    assert (cell.refused.code, cell.refused.exit_code) == ("worker-died", 3)
    assert "crashed" in cell.refused.message


def test_a_browser_that_does_not_start_is_unavailable(tmp_path: Path) -> None:
    target = find("browser")
    command = (*target.command[:-2], "/nowhere/chromium", str(tmp_path))
    cell = measured(timed.products(tmp_path, 2), replace(target, command=command))
    assert cell.refused is not None
    assert cell.refused.code == "target-unavailable"


def test_packages_that_are_absent_or_old_come_with_one_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(edge_tools.FOLDER, str(tmp_path))
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    for name, package in (("node", "onnxruntime-node"), ("browser", "onnxruntime-web")):
        capfd.readouterr()
        assert run(["env", "--target", name]) == 0
        command = f"npm install --ignore-scripts --prefix {tmp_path} {package}@{edge_tools.VERSIONS[package]}"
        assert capfd.readouterr().out == command + "\n"
        manifest = tmp_path / "node_modules" / package / "package.json"
        manifest.parent.mkdir(parents=True)
        manifest.write_text(json.dumps({"version": "1.9.0"}))
        assert "too old" in find(name).missing
        manifest.write_text(json.dumps({"version": edge_tools.VERSIONS[package]}))
        assert not find(name).missing
        manifest.write_text("{")
        assert "not installed" in find(name).missing
    assert run(["bench", str(timed.products(tmp_path, 2)), "--target", "browser"]) == 3
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert find("node").install.startswith("apt-get install nodejs")
    assert find("browser").install.startswith("apt-get install chromium")


@pytest.mark.slow
@here("node")
def test_bench_on_node_as_a_user_calls_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Measurement, "_per_process", 0.05)
    first, second = timed.products(tmp_path, 3), timed.products(tmp_path, 30)
    brief = ("--processes", "2", "--half-width", "50", "--target", "node")
    assert run(["bench", str(first), str(second), *brief, "-o", str(tmp_path / "out.json")]) == 0
    text = capfd.readouterr().out
    assert "node, server, 1 thread" in text
    assert "deviation" in text
    document = json.loads((tmp_path / "out.json").read_text())
    (cell,) = document["cells"]
    assert (cell["target"], cell["figures"][0]["kind"]) == ("node", "measured")
    assert cell["machine"]["node"].startswith("v")
    assert run(["bench", str(first), *brief, "--memory-limit", "1GiB"]) == 2
    assert run(["bench", str(first), *brief, "--ep", "cuda"]) == 2
    assert run(["compare", str(second), str(first), *brief]) == 0
    assert "time of products30" in capfd.readouterr().out
