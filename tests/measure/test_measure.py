"""Timing for real, briefly: that the figures are there, and are of what they say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

import timed
from normfold.errors import UsageError
from normfold.measure import CONTROL, Conditions, Effort, Experiment, SessionProfile, measure, open_candidate
from normfold.measure.candidate import with_batch
from normfold.measure.schedule import LEAST_ROUNDS
from normfold.models.data import UserInputs
from normfold.proof.probes import InputSpec
from normfold.runtime.targets.timing_client import TimingClient
from normfold.runtime.workers import arrays


def test_twice_the_work_takes_about_twice_as_long(tmp_path: Path, brief: Effort) -> None:
    effort = replace(brief, details=True, per_process=0.2)
    with (
        open_candidate(timed.products(tmp_path, 60, width=128)) as once,
        open_candidate(timed.products(tmp_path, 120, width=128)) as twice,
    ):
        cell = measure(Experiment((once, twice), Conditions(batch=8), effort))
    assert cell.refused is None
    ratio = cell.comparisons["products120"].ratio.value
    assert 1.5 < ratio < 2.6
    for figure in cell.figures:
        assert figure.latency.value > 1000
        assert figure.load_ns > 0
        assert figure.first_run_ns > 0
        assert figure.import_ns > 0
        assert set(figure.placed) <= {"CPUExecutionProvider"}
        assert figure.details is not None
        assert figure.details.peak_rss is None or figure.details.peak_rss > 1 << 20
        assert figure.details.arena_peak is None or figure.details.arena_peak > 0
        assert figure.microjoules is not None or figure.no_energy
    nodes = [len(figure.details.nodes) for figure in cell.figures if figure.details]
    assert nodes == [60, 120]
    sample = cell.samples[0]
    assert set(sample.blocks) == {"products60", "products120", CONTROL}
    assert len(sample.turns) >= LEAST_ROUNDS
    assert all(len(block) >= 10 and min(block) > 0 for block in sample.blocks["products60"])
    assert cell.control is not None


def test_settings_reach_the_session(tmp_path: Path, brief: Effort) -> None:
    """Without optimisations the two additions of zero stay, and show in the profile."""
    path = timed.products(tmp_path, 2)
    graph = onnx.load(path)
    graph.graph.node[1].input[0] = "same"
    graph.graph.node.insert(1, onnx.helper.make_node("Identity", ["h0"], ["same"], name="nothing"))
    onnx.save(graph, path)
    plain = SessionProfile(options={"graph_optimization_level": "ORT_DISABLE_ALL"})
    with open_candidate(path) as optimised:
        other = replace(optimised, name="plain", profile=plain)
        cell = measure(Experiment((optimised, other), Conditions(threads=2), replace(brief, details=True)))
    assert cell.refused is None
    operators = [sorted({node[1] for node in figure.details.nodes}) for figure in cell.figures if figure.details]
    assert operators == [["MatMul"], ["Identity", "MatMul"]]


def test_one_model_is_timed_beside_its_copy(tmp_path: Path, brief: Effort) -> None:
    with open_candidate(onnx.load(timed.products(tmp_path, 3)), name="here") as model:
        cell = measure(Experiment((model,), Conditions(use="edge"), brief))
    assert [figure.name for figure in cell.figures] == ["here"]
    assert cell.comparisons == {}
    assert cell.control is not None


def test_what_is_given_is_what_runs(tmp_path: Path, brief: Effort) -> None:
    with open_candidate(timed.products(tmp_path, 3)) as model:
        fed = measure(Experiment((model,), Conditions(), brief, UserInputs(arrays={"x": np.ones((5, 64), np.float32)})))
        shaped = measure(Experiment((model,), Conditions(batch=3), brief, UserInputs(shapes={"x": (7, 64)})))
        wrong = measure(Experiment((model,), Conditions(), brief, UserInputs(shapes={"x": (7, 65)})))
    assert fed.probes[0].shape == (5, 64)
    assert shaped.probes[0].shape == (3, 64)
    assert wrong.refused is not None
    assert wrong.refused.code == "bad-input"


def spec(name: str, *shape: int | str | None) -> InputSpec:
    return InputSpec(name, np.dtype(np.float32), shape)


def test_the_batch_size_goes_where_the_first_dimension_is_free() -> None:
    specs = (spec("x", "N", 3), spec("state", 2, "N"), spec("mask", None, "L"))
    sized, _ = with_batch(specs, UserInputs(), 8)
    assert [one.shape for one in sized] == [(8, 3), (2, 8), (8, "L")]
    alone, _ = with_batch(specs, UserInputs(), None)
    assert [one.shape for one in alone] == [(1, 3), (2, 1), (1, "L")]


def test_a_fixed_batch_size_stays() -> None:
    assert with_batch((spec("x", 4, 3),), UserInputs(), 4)[0][0].shape == (4, 3)
    with pytest.raises(UsageError) as caught:
        with_batch((spec("x", 4, 3),), UserInputs(), 8)
    assert caught.value.code == "bad-input"


def test_a_model_says_what_it_computes_in(tmp_path: Path) -> None:
    path = timed.products(tmp_path, 2)
    model = onnx.load(path)
    with open_candidate(model) as plain:
        assert plain.precision is None
    model.graph.node.insert(0, onnx.helper.make_node("DynamicQuantizeLinear", ["x"], ["c", "s", "z"]))
    with open_candidate(model) as quantized:
        assert quantized.precision == "int8"
    half = onnx.numpy_helper.from_array(np.zeros(3, np.float16), "half")
    del model.graph.node[0]
    model.graph.initializer.append(half)
    with open_candidate(model) as mixed:
        assert mixed.precision == "float16"


def test_a_scalar_stays_a_scalar(tmp_path: Path, brief: Effort) -> None:
    """The shape of an output of rank 0 is what check_outputs compares with the same array in another process."""
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Shape", ["x"], ["y"])],
        "scalar",
        [onnx.helper.make_tensor_value_info("x", timed.FLOAT, [])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.INT64, [0])],
    )
    with open_candidate(timed.saved(tmp_path, "scalar", graph)) as model, TimingClient(time_limit=60) as client:
        client.hello((), 0)
        client.open("m", model.model, Experiment((model,), Conditions(), brief).session(model.profile))
        client.bind("m", arrays.write(tmp_path / "inputs", {"x": np.float32(3).reshape(())}))
        assert client.outputs("m")["y"].shape == (0,)
