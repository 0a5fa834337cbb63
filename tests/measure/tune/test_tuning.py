"""Looking for settings of a session: what is tried, what is chosen, and that chance is not taken for a gain."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import jsonschema
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import timed
from normfold import SessionProfile, open_session, tune
from normfold.cli.application import run
from normfold.errors import FindingError, NormfoldError
from normfold.measure import Cell, Comparison, Effort, Experiment, Interval
from normfold.measure.statistics import judge
from normfold.measure.tune import search
from normfold.measure.tune.changes import LEVEL, Change, applied, possible_changes
from normfold.measure.tune.search import Trial, promising, winner
from normfold.report import schema
from normfold.runtime.session_profile import SPINNING, from_json
from normfold.verbs.tune import loading_lines, plain_lines

BRIEF = Effort(first=2, most=2, per_process=0.02, warm_up=0.005, time_limit=60.0, details=False)
SKIP = "SkipLayerNormFusion"
Rate = Callable[[SessionProfile], float]


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    """Two sums, each with a LayerNorm behind it, as after the blocks of a post-norm transformer."""
    sizes = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 8, 32]) for name in ("x", "y")]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"], name="p"),
        helper.make_node("Add", ["x", "p"], ["s"], name="s"),
        helper.make_node("LayerNormalization", ["s", "g", "b"], ["h"], name="h"),
        helper.make_node("MatMul", ["h", "w"], ["q"], name="q"),
        helper.make_node("Add", ["h", "q"], ["t"], name="t"),
        helper.make_node("LayerNormalization", ["t", "g", "b"], ["y"], name="n"),
    ]
    constants = {"w": np.eye(32), "g": np.ones(32), "b": np.zeros(32)}
    held = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "encoder", sizes[:1], sizes[1:], held)
    return timed.saved(tmp_path, "encoder", graph)


def pretend(monkeypatch: pytest.MonkeyPatch, *rates: Rate) -> list[Experiment]:
    """Let measurements read as ``rates`` say of the settings, the last one from its turn on; all that was asked."""
    asked: list[Experiment] = []

    def measure(experiment: Experiment) -> Cell:
        rate = rates[min(len(asked), len(rates) - 1)]
        asked.append(experiment)
        try:
            found = {one.name: _comparison(rate(one.profile)) for one in experiment.candidates[1:]}
        except NormfoldError as error:
            return Cell(experiment.conditions, refused=error)
        figure = Mock(latency=Interval(1e6, 1e6, 1e6))
        figure.name = experiment.reference.name
        return Cell(experiment.conditions, figures=(figure,), comparisons=found)

    monkeypatch.setattr(search, "measure", measure)
    return asked


def _comparison(ratio: float) -> Comparison:
    log = float(np.log(ratio))
    return judge(Interval(log, log - 0.01, log + 0.01), Interval(0.0, -0.012, 0.012))


def test_the_optimiser_that_slows_it_down_is_found_without_being_named(
    encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, lambda profile: 0.88 if SKIP in profile.disabled_optimizers else 1.001)
    done = tune(encoder, threads=1, effort=BRIEF)
    assert SKIP in done.optimizers
    assert done.better
    assert done.profile == SessionProfile(disabled_optimizers=(SKIP,), intra_threads=1)


def test_only_optimisers_that_change_the_model_are_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, lambda _profile: 1.0)
    done = tune(timed.products(tmp_path, 3), threads=1, effort=BRIEF)
    assert SKIP not in done.optimizers
    assert done.confirmed is None
    assert done.profile == SessionProfile(intra_threads=1)


def test_what_is_not_confirmed_is_not_written(encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lucky(profile: SessionProfile) -> float:
        return 0.9 if profile.options.get("enable_cpu_mem_arena") is False else 1.0

    asked = pretend(monkeypatch, lucky)
    done = tune(encoder, threads=1, effort=BRIEF)
    assert done.better
    rounds = len(asked)
    pretend(monkeypatch, *[lucky] * (rounds - 1), lambda _profile: 0.99)
    done = tune(encoder, threads=1, effort=BRIEF)
    assert done.confirmed is not None
    assert done.confirmed.name == "no arena"
    assert not done.better
    assert done.profile == SessionProfile(intra_threads=1)


def test_the_confirmation_is_a_measurement_of_its_own(encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = pretend(monkeypatch, lambda profile: 0.8 if SKIP in profile.disabled_optimizers else 1.0)
    tune(encoder, threads=1, effort=BRIEF)
    assert len(asked[-1].candidates) == 2
    assert asked[-1].effort.control
    assert asked[-1].seed not in {experiment.seed for experiment in asked[:-1]}


def test_settings_that_compute_something_else_are_left_out_alone(
    encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rate(profile: SessionProfile) -> float:
        if SKIP in profile.disabled_optimizers:
            raise FindingError("outputs-differ", "something else")
        return 1.0

    pretend(monkeypatch, rate)
    done = tune(encoder, threads=1, effort=BRIEF)
    refused = [trial for trial in done.trials if trial.refused]
    assert [trial.name for trial in refused] == [f"no {SKIP}"]
    assert not done.better
    assert len(done.trials) > 3


def _trial(gain: float, *changes: Change) -> Trial:
    return Trial("each", changes, _comparison(1 - gain))


A, B, C, D = (Change(name, knob, {}) for name, knob in (("a", "1"), ("b", "2"), ("c", "2"), ("d", "3")))


def test_of_one_knob_the_better_change_goes_on() -> None:
    trials = [_trial(0.02, A), _trial(0.05, B), _trial(0.04, C), _trial(0.004, D)]
    assert promising(trials) == (B, A)


def test_the_fewest_changes_near_the_best_win() -> None:
    assert winner([_trial(0.10, A), _trial(0.104, A, B), _trial(0.06, B)]) == (A,)
    assert winner([_trial(0.08, A), _trial(0.104, A, B), _trial(0.06, B)]) == (A, B)
    assert winner([_trial(0.10, A), _trial(0.102, B)]) == (B,)
    assert winner([_trial(0.004, A)]) == ()
    assert winner([]) == ()


def test_a_level_wins_only_where_nothing_more_precise_comes_near() -> None:
    level = Change("BASIC", LEVEL, {})
    assert winner([_trial(0.10, level), _trial(0.085, A)]) == (A,)
    assert winner([_trial(0.10, level), _trial(0.07, A)]) == (level,)
    assert winner([_trial(0.015, level), _trial(0.001, A)]) == (level,)


def test_changes_add_up() -> None:
    found = possible_changes("cuda", "server", 1, (), 1, ("P", "Q"))
    profile = applied(SessionProfile(provider="cuda"), found)
    assert profile.disabled_optimizers == ("P", "Q")
    assert profile.provider_options["enable_cuda_graph"] == "1"
    assert profile.provider_options["prefer_nhwc"] == "1"
    assert profile.options["enable_mem_pattern"] is False


def test_threads_are_searched_where_they_may_be() -> None:
    def knobs(**given: Any) -> set[str]:
        usual: dict[str, Any] = {
            "provider": "cpu",
            "use": "server",
            "threads": 2,
            "counts": (1, 2, 4),
            "processors": 4,
            "optimizers": (),
        }
        return {change.knob for change in possible_changes(**usual | given)}

    assert knobs() >= {"threads", "spinning", "mode", "blocks"}
    assert "spinning" not in knobs(use="edge")
    assert not knobs(counts=()) & {"threads", "mode"}
    assert "capture" not in knobs()
    assert not knobs(provider="cuda") & {"threads", "spinning", "mode"}
    assert not knobs(threads=1, counts=(), processors=1) & {"threads", "spinning", "mode", "blocks"}


PROFILE = SessionProfile(
    intra_threads=1,
    options={"graph_optimization_level": "ORT_ENABLE_BASIC", "enable_mem_pattern": False},
    config=dict.fromkeys(SPINNING, "0"),
    disabled_optimizers=(SKIP,),
)


def _check(session: Any) -> None:
    options = session.get_session_options()
    assert options.intra_op_num_threads == 1
    assert options.graph_optimization_level.name == "ORT_ENABLE_BASIC"
    assert options.enable_mem_pattern is False
    assert options.get_session_config_entry(SPINNING[0]) == "0"


def test_the_lines_that_load_it_run(encoder: Path, tmp_path: Path) -> None:
    file = tmp_path / "profile.json"
    file.write_text(json.dumps(PROFILE.to_json()))
    inputs = {"x": np.random.default_rng(0).standard_normal((1, 8, 32)).astype(np.float32)}
    lines = loading_lines(encoder, file)
    assert len(lines) == 3
    loaded: dict[str, Any] = {"inputs": inputs}
    exec("\n".join(lines), loaded)  # noqa: S102 - what the user is told to run
    _check(loaded["session"])
    plain: dict[str, Any] = {}
    exec("\n".join(plain_lines(encoder, PROFILE)), plain)  # noqa: S102
    _check(plain["session"])
    np.testing.assert_array_equal(loaded["outputs"][0], plain["session"].run(None, inputs)[0])


@pytest.mark.parametrize("disabled", [(), (SKIP,)])
def test_an_optimiser_that_is_switched_off_stays_off(encoder: Path, tmp_path: Path, disabled: tuple[str, ...]) -> None:
    open_session(encoder, SessionProfile(disabled_optimizers=disabled)).run(
        None, {"x": np.ones((1, 8, 32), np.float32)}
    )
    from normfold.measure import Conditions, open_candidate
    from normfold.runtime.targets.timing_client import TimingClient

    with (
        open_candidate(encoder, profile=SessionProfile(disabled_optimizers=disabled)) as model,
        TimingClient(time_limit=60) as client,
    ):
        client.hello((), 0, preload=False)
        found = client.optimizers(model.model, Experiment((model,), Conditions(), BRIEF).session(model.profile))
    assert (SKIP in found) == (not disabled)


def test_a_session_that_cannot_be_opened(encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(NormfoldError) as caught:
        open_session(encoder, SessionProfile(provider="cuda"))
    assert caught.value.code == "provider-unavailable"
    (tmp_path / "no.onnx").write_bytes(b"no")
    with pytest.raises(NormfoldError) as caught:
        open_session(tmp_path / "no.onnx", SessionProfile())
    assert caught.value.code == "not-runnable"


@pytest.mark.slow
def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    net, out = timed.products(tmp_path, 5, "net"), tmp_path / "p.json"
    monkeypatch.setattr("normfold.measure.tune.search.SHARES", dict.fromkeys(("each", "together", "confirmed"), 0.001))
    monkeypatch.setattr("normfold.measure.tune.search.SHARE", 0.01)
    assert run(["tune", str(net), "--threads", "1", "-o", str(out), "--json"]) == 0
    parsed = json.loads(capfd.readouterr().out)
    jsonschema.validate(parsed, schema.schema())
    assert parsed["result"]["profile"] == json.loads(out.read_text())
    assert from_json(parsed["result"]["profile"]).intra_threads == 1
    assert len(parsed["result"]["trials"]) >= 2
    assert all(trial["comparison"] for trial in parsed["result"]["trials"])
    brief = ["--half-width", "50", "--processes", "2", "--no-details"]
    assert run(["bench", str(net), "--session", str(out), *brief, "-q"]) == 0


def test_the_command_in_words(encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    pretend(monkeypatch, lambda profile: 0.88 if SKIP in profile.disabled_optimizers else 1.001)
    out = tmp_path / "p.json"
    assert run(["tune", str(encoder), "--threads", "1", "-o", str(out)]) == 0
    text = capfd.readouterr().out
    assert f"no {SKIP} takes 0.88x (0.8712 to 0.8888) of the time of the default settings: use it." in text
    assert f"session = normfold.open_session({str(encoder)!r}, {str(out)!r})" in text


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_without_the_provider_there_is_nothing_to_tune(
    encoder: Path, tmp_path: Path, provider: str, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "p.json"
    assert run(["tune", str(encoder), "--ep", provider, "-o", str(out), "--json"]) == 3
    assert json.loads(capfd.readouterr().out)["error"]["code"] == "provider-unavailable"
    assert not out.exists()


def test_a_model_that_onnx_runtime_cannot_load(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = timed.products(tmp_path, 2, "net")
    model = onnx.load(path)
    model.graph.node[0].op_type = "Nonsense"
    onnx.save(model, path)
    assert run(["tune", str(path), "--json"]) == 2
    assert json.loads(capfd.readouterr().out)["error"]["code"] == "not-runnable"


def test_nothing_is_measured_where_the_file_could_not_be_written(encoder: Path, tmp_path: Path) -> None:
    assert run(["tune", str(encoder), "-o", str(tmp_path / "nowhere" / "p.json")]) == 2


def test_edge_settings_are_in_the_file(encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, lambda _profile: 1.0)
    done = tune(encoder, use="edge", effort=replace(BRIEF))
    assert done.profile.config == dict.fromkeys(SPINNING, "0")
