"""Figures from files: what is compared, and what is refused."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import normfold
from normfold.errors import UsageError

Document = dict[str, Any]


def document(level: float, *, name: str = "net", spread: float = 0.001, processes: int = 5, seed: int = 0) -> Document:
    """Figures of one model that takes ``level`` nanoseconds; only what a comparison reads."""
    rng = np.random.default_rng(seed)
    levels = level * np.exp(rng.normal(0, spread, processes))
    samples = [{"ns": {name: [[round(one)] * 10] * 9}, "steady_from": None} for one in levels]
    cell = {
        "batch": 1,
        "threads": 2,
        "use": "server",
        "cpus": [],
        "figures": [{"name": name, "kind": "measured"}],
        "samples": samples,
        "control": {"value": 1.0, "low": 0.999, "high": 1.001},
    }
    return {
        "schema": "normfold.bench/1",
        "environment": {
            "processor": "Abacus 3000",
            "cpus": 2,
            "cpu_features": ["avx2"],
            "packages": {"onnxruntime": "1.31.1"},
            "gpus": [],
        },
        "models": [{"name": name, "sha256": None, "session": {"provider": "cpu"}}],
        "cells": [cell],
    }


def code(a: Any, b: Any, **options: Any) -> str:
    with pytest.raises(UsageError) as caught:
        normfold.compare(a, b, **options)
    return caught.value.code


@pytest.mark.parametrize(
    ("ratio", "verdict", "found"),
    [(1.1, "slower", True), (0.5, "faster", True), (1.0, "equivalent", False), (1.01, "equivalent", True)],
)
def test_a_difference_between_two_documents(ratio: float, verdict: str, found: bool) -> None:
    (one,) = normfold.compare(document(1e6), document(1e6 * ratio, seed=1)).figures
    assert one.comparison.ratio.value == pytest.approx(ratio, rel=0.003)
    assert (one.comparison.verdict, one.comparison.found) == (verdict, found)
    assert one.comparison.floor == pytest.approx(0.001, rel=0.01)


def test_few_and_noisy_processes_decide_nothing() -> None:
    (one,) = normfold.compare(
        document(1e6, spread=0.2, processes=3), document(1.1e6, spread=0.2, processes=3, seed=1)
    ).figures
    assert one.comparison.verdict == "inconclusive"
    assert not one.comparison.found


def test_a_single_process_has_no_interval() -> None:
    (one,) = normfold.compare(document(1e6, processes=1), document(2e6, processes=1)).figures
    assert one.comparison.ratio.high == math.inf
    assert one.comparison.verdict == "inconclusive"


@pytest.mark.parametrize(
    "change",
    [
        {"processor": "Abacus 4000"},
        {"cpus": 4},
        {"packages": {"onnxruntime": "1.30.0"}},
        {"gpus": [{"name": "G", "driver": "1"}]},
    ],
)
def test_another_environment_is_refused_unless_forced(change: dict[str, Any]) -> None:
    a, b = document(1e6), document(1e6, seed=1)
    b["environment"] |= change
    assert code(a, b) == "environment-differs"
    assert normfold.compare(a, b, force=True).figures[0].comparison.verdict == "equivalent"


def test_other_conditions_are_nothing_to_compare_even_when_forced() -> None:
    a, b = document(1e6), document(1e6)
    b["cells"][0]["threads"] = 1
    assert code(a, b) == "environment-differs"
    assert code(a, b, force=True) == "environment-differs"


@pytest.mark.parametrize("kind", ["measured", "counted", "emulated", "compiled"])
def test_another_target_or_kind_is_nothing_to_compare_even_when_forced(kind: str) -> None:
    a, b = document(1e6), document(1e6)
    at(b, "node", kind)
    if kind != "measured":
        at(a, "node", "measured")
    assert code(a, b) == "environment-differs"
    assert code(a, b, force=True) == "environment-differs"


def test_another_board_is_refused_unless_forced() -> None:
    a, b = document(1e6), document(1e6, seed=1)
    at(a, "ssh://pi", "measured")
    at(b, "ssh://pi", "measured")
    assert normfold.compare(a, b).figures[0].comparison.verdict == "equivalent"
    b["cells"][0]["machine"] = {"processor": "Cortex-A76"}
    assert code(a, b) == "environment-differs"
    assert normfold.compare(a, b, force=True).figures[0].conditions.target == "ssh://pi"
    b["cells"][0]["machine"] = a["cells"][0]["machine"]
    for sample in b["cells"][0]["samples"]:
        sample["onnxruntime"] = "1.30.0"
    assert code(a, b) == "environment-differs"


def at(document: Document, target: str, kind: str) -> None:
    """Let the figures be those of another target."""
    (cell,) = document["cells"]
    cell |= {"target": target, "machine": {"processor": "Cortex-A53"}}
    cell["figures"][0]["kind"] = kind
    for sample in cell["samples"]:
        sample["onnxruntime"] = "1.31.1"
        sample["counts"] = {cell["figures"][0]["name"]: {"integer": 1_000_000, "bytes_loaded": 10}}


def test_models_are_matched_by_name_where_there_are_several() -> None:
    a, b = document(1e6), document(1e6, name="other", seed=1)
    assert normfold.compare(a, b).figures[0].other == "other"
    two = copy.deepcopy(a)
    extra = document(3e6, name="other", seed=2)
    two["models"] += extra["models"]
    two["cells"][0]["figures"] += extra["cells"][0]["figures"]
    for sample, more in zip(two["cells"][0]["samples"], extra["cells"][0]["samples"], strict=True):
        sample["ns"] |= more["ns"]
    (one,) = normfold.compare(two, b).figures
    assert (one.reference, one.other) == ("other", "other")
    assert one.comparison.verdict == "faster"


@pytest.mark.parametrize("time", [0, -1, math.nan, math.inf, 10**400, "a", None, []])
def test_times_that_are_none(time: Any) -> None:
    damaged = document(1e6)
    damaged["cells"][0]["samples"][1]["ns"]["net"] = [[time] * 10] * 9
    assert code(damaged, document(1e6)) == "bad-measurement"


def test_controls_that_are_none() -> None:
    damaged = document(1e6)
    damaged["cells"][0]["control"]["low"] = -1
    assert code(damaged, document(1e6)) == "bad-measurement"


def test_figures_without_samples() -> None:
    damaged = document(1e6)
    damaged["cells"][0]["samples"] = []
    assert code(damaged, document(1e6)) == "bad-measurement"


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"schema": "normfold/1"}', '{"schema": "normfold.bench/1"}'],
)
def test_files_that_hold_no_figures(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    (tmp_path / "b.json").write_text(json.dumps(document(1e6)))
    assert code(tmp_path / "a.json", tmp_path / "b.json") == "bad-measurement"
    assert code(tmp_path / "b.json", tmp_path / "none.json") == "bad-measurement"


def test_a_model_and_a_file_of_figures_do_not_compare(tmp_path: Path) -> None:
    assert code("a.onnx", "b.json") == "usage"
