"""Everything that can go wrong comes out as its code, and never as a figure."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import timed
from normfold.errors import EnvironmentUnavailableError, FindingError, UsageError
from normfold.measure import Candidate, Cell, Conditions, Effort, Experiment, SessionProfile, measure, open_candidate
from normfold.measure.checks import check_inputs, check_outputs, check_placement
from normfold.proof.probes import InputSpec
from normfold.runtime import Runnable, memory
from normfold.runtime.targets import LOCAL

DISGUISED = """
import os, signal, sys
from normfold.runtime.workers import timing
{}
timing.main()
"""
"""A worker in whose machine something is different."""


def disguised(changes: str) -> tuple[str, ...]:
    return sys.executable, "-P", "-c", DISGUISED.format(changes)


def refused(cell: Cell) -> str:
    """The code, given that there is nothing else."""
    assert cell.refused is not None
    assert (cell.figures, cell.samples, dict(cell.comparisons), cell.control) == ((), (), {}, None)
    return cell.refused.code


@pytest.fixture
def experiment(tmp_path: Path, brief: Effort) -> Experiment:
    with open_candidate(timed.products(tmp_path, 4)) as model:
        return Experiment((model,), Conditions(), brief)


def on(experiment: Experiment, provider: str) -> Experiment:
    return replace(experiment, candidates=(replace(experiment.reference, profile=SessionProfile(provider=provider)),))


def test_a_provider_that_is_not_there(experiment: Experiment) -> None:
    cell = measure(on(experiment, "tensorrt"))
    assert refused(cell) == "provider-unavailable"
    assert cell.refused is not None
    assert cell.refused.exit_code == 3


def test_a_provider_that_is_there_but_does_not_load(experiment: Experiment) -> None:
    """ONNX Runtime says so on stderr and goes on without it."""
    changes = (
        "hello = timing.TimingWorker.hello\n"
        "def claim(self, request):\n"
        "    reply = hello(self, request)\n"
        "    import onnxruntime\n"
        "    onnxruntime.get_available_providers = lambda: ['CUDAExecutionProvider', 'CPUExecutionProvider']\n"
        "    return reply\n"
        "timing.VERBS['hello'] = claim\n"
    )
    assert (
        refused(measure(replace(on(experiment, "cuda"), target=replace(LOCAL, command=disguised(changes)))))
        == "provider-unavailable"
    )


HALF = (
    "def half(session):\n"
    "    providers = ['CPUExecutionProvider', 'CUDAExecutionProvider']\n"
    "    return [[f'h{i}', 'MatMul', providers[i % 2]] for i in range(4)]\n"
    "timing.placed = half\n"
)


def test_half_of_the_nodes_elsewhere(experiment: Experiment) -> None:
    cell = measure(replace(experiment, target=replace(LOCAL, command=disguised(HALF))))
    assert refused(cell) == "provider-fallback"
    assert "2 of 4 nodes" in str(cell.refused)


def test_half_of_the_nodes_elsewhere_where_that_is_allowed(experiment: Experiment) -> None:
    cell = measure(replace(experiment, target=replace(LOCAL, command=disguised(HALF)), allow_fallback=True))
    assert cell.refused is None
    assert cell.figures[0].placed == {"CPUExecutionProvider": 2, "CUDAExecutionProvider": 2}
    assert any("more than one execution provider" in warning for warning in cell.warnings)


def test_a_worker_killed_in_the_middle(experiment: Experiment, tmp_path: Path) -> None:
    """In the second process, while it is timing."""
    changes = (
        f"mark = {str(tmp_path / 'second')!r}\n"
        "run = timing.TimingWorker.time\n"
        "def die(self, request):\n"
        "    if os.path.exists(mark): os.kill(os.getpid(), signal.SIGKILL)\n"
        "    if len(request['blocks']) > 2: open(mark, 'w').close()\n"
        "    return run(self, request)\n"
        "timing.VERBS['time'] = die\n"
    )
    cell = measure(replace(experiment, target=replace(LOCAL, command=disguised(changes))))
    assert refused(cell) == "worker-died"
    assert "-9" in str(cell.refused)


def test_a_worker_that_cannot_be_started(experiment: Experiment) -> None:
    assert refused(measure(replace(experiment, target=replace(LOCAL, command=("/nowhere/python",))))) == "worker-died"


@pytest.mark.skipif(sys.platform != "linux", reason="the memory limit needs Linux")
def test_a_model_larger_than_memory(experiment: Experiment, tmp_path: Path) -> None:
    available = memory.available()
    if available is None or available > 40e9:
        pytest.skip("this machine has room for it")
    assert refused(measure(replace(experiment, candidates=(timed.huge(tmp_path),)))) == "out-of-memory"


def test_a_hang(experiment: Experiment, tmp_path: Path) -> None:
    effort = replace(experiment.effort, worker_timeout=2.0)
    assert refused(measure(replace(experiment, candidates=(timed.endless(tmp_path),), effort=effort))) == "timed-out"


def test_models_with_different_inputs(experiment: Experiment, tmp_path: Path) -> None:
    with open_candidate(timed.products(tmp_path, 4, name="other", source="z")) as other:
        assert refused(measure(replace(experiment, candidates=(experiment.reference, other)))) == "inputs-differ"


def test_models_that_compute_different_things(experiment: Experiment, tmp_path: Path) -> None:
    import onnx

    path = timed.products(tmp_path, 4, name="other")
    model = onnx.load(path)
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(1.001 * np.eye(64, dtype=np.float32), "w"))
    onnx.save(model, path)
    with open_candidate(path) as other:
        both = replace(experiment, candidates=(experiment.reference, other))
        cell = measure(both)
        assert refused(cell) == "outputs-differ"
        assert cell.refused is not None
        assert cell.refused.exit_code == 1
        assert measure(replace(both, rtol=0.1)).refused is None


def test_a_file_that_is_no_model(experiment: Experiment, tmp_path: Path) -> None:
    (tmp_path / "no.onnx").write_bytes(b"not a model")
    broken = Candidate("no", Runnable(tmp_path / "no.onnx", tmp_path), (timed.SPEC,))
    assert refused(measure(replace(experiment, candidates=(broken,)))) == "not-runnable"


def test_what_is_no_model_at_all() -> None:
    with pytest.raises(UsageError) as caught, open_candidate(object()):  # type: ignore[arg-type]
        pass
    assert caught.value.code == "usage"


def test_a_missing_library_of_custom_operators(experiment: Experiment) -> None:
    assert refused(measure(replace(experiment, custom_ops=("/nowhere/lib.so",)))) == "custom-ops"


CPU, GPU = "CPUExecutionProvider", "CUDAExecutionProvider"


def test_placement() -> None:
    placed = [["a", "Conv", GPU], ["b", "Shape", CPU]]
    with pytest.raises(EnvironmentUnavailableError, match=r"1 of 2 nodes would not run on .*: b \(Shape\)"):
        check_placement("net", GPU, placed, allow_fallback=False)
    assert check_placement("net", GPU, placed, allow_fallback=True) == {GPU: 1, CPU: 1}
    assert check_placement("net", CPU, None, allow_fallback=False) == {}
    with pytest.raises(EnvironmentUnavailableError) as caught:
        check_placement("net", GPU, None, allow_fallback=False)
    assert caught.value.code == "provider-fallback"
    with pytest.raises(EnvironmentUnavailableError) as caught:
        check_placement("net", GPU, [["b", "Shape", CPU]], allow_fallback=True)
    assert caught.value.code == "provider-unavailable"


def named(name: str, *inputs: InputSpec) -> Candidate:
    return Candidate(name, Runnable(Path("m"), Path()), inputs)


def test_inputs_that_fit_each_other() -> None:
    free, fixed = (InputSpec("x", np.dtype(np.float32), shape) for shape in (("N", 3), (4, 3)))
    check_inputs([named("a", free), named("b", fixed)])
    wide = InputSpec("x", np.dtype(np.float32), (4, 5))
    double = InputSpec("x", np.dtype(np.float64), ("N", 3))
    for other in (wide, double):
        with pytest.raises(UsageError) as caught:
            check_inputs([named("a", free), named("b", other)])
        assert caught.value.code == "inputs-differ"


def test_outputs() -> None:
    truth = {"y": np.linspace(0, 1, 8, dtype=np.float32)}
    close = {"y": truth["y"] + np.float32(5e-5)}
    assert check_outputs(named("a"), named("b"), truth, close, None) == pytest.approx(5e-5, rel=0.1)
    coarse = {"y": truth["y"] + np.float32(0.03)}
    for pair in (
        (replace(named("q"), precision="int8"), named("b")),
        (named("b"), replace(named("q"), precision="int8")),
    ):
        assert check_outputs(*pair, truth, coarse, None) == pytest.approx(0.03, rel=0.1)
    rounded = {"y": truth["y"] + np.float32(5e-3)}
    tf32, exact = (SessionProfile(provider="cuda", provider_options=options) for options in ({}, {"use_tf32": "0"}))
    assert check_outputs(replace(named("g"), profile=tf32), named("b"), truth, rounded, None) > 0.004
    with pytest.raises(FindingError, match="differs by"):
        check_outputs(replace(named("g"), profile=exact), named("b"), truth, rounded, None)
    for wrong in ({"y": truth["y"] + np.float32(5e-3)}, {"z": truth["y"]}, {"y": truth["y"] * np.float32("nan")}):
        with pytest.raises(FindingError) as caught:
            check_outputs(named("a"), named("b"), truth, wrong, None)
        assert caught.value.code == "outputs-differ"
