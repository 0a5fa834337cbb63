"""The coverage page says what the code does: its normfold column is made anew here, without any peer."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from folding import only_fold, proven_fold
from normfold.core.algebra import Affine
from normfold.core.premises import PREMISES
from normfold.core.rules import CARRIES, RULES

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS, DATA = ROOT / "benchmarks", ROOT / "docs" / "data"
TOOLS = {"onnxruntime", "onnxsim", "onnxslim", "onnxscript", "onnxoptimizer", "normfold"}
HINT = "python benchmarks/patterns.py --tool normfold && make docs"

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="a source distribution without the pages")


def document(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DATA / name).read_text(encoding="utf-8"))
    return found


ROWS = {row["name"]: row for row in document("patterns.json")["patterns"]} if DATA.is_dir() else {}


@pytest.fixture(scope="module")
def patterns() -> Any:
    """The benchmark's module, which needs no peer to be read."""
    if not BENCHMARKS.is_dir():
        pytest.skip("a source distribution without the benchmarks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
        return importlib.import_module("patterns")


def test_it_names_rules_and_premises_that_exist() -> None:
    cells = [row["tools"]["normfold"] for row in ROWS.values()]
    assert {name for cell in cells for name in cell["rules"]} <= {rule.name for rule in RULES}
    assert {name for cell in cells for name in cell["premises"]} <= PREMISES.keys()


def test_every_rule_of_the_road_has_a_pattern() -> None:
    named = {name for row in ROWS.values() for name in row["tools"]["normfold"]["rules"]}
    # Decisions are on norms, whose maps are affine: a shuffle that goes is in no decision.
    carried = {rule.name for rule in CARRIES if rule.map is Affine}
    assert carried - named <= {"fold_affine_into_padded_consumer"}


def test_every_tool_has_a_word_on_every_pattern() -> None:
    assert all(row["tools"].keys() == TOOLS for row in ROWS.values())


def test_normfold_is_never_wrong() -> None:
    assert {row["tools"]["normfold"]["verdict"] for row in ROWS.values()} <= {"gone", "part", "left"}


def test_no_peer_folds_a_norm_that_stays_here() -> None:
    """What holds no norm is another matter: such fusions are the runtime's."""
    for row in ROWS.values():
        own = row["tools"]["normfold"]
        right = [c for t, c in row["tools"].items() if t != "normfold" and c["verdict"] in {"gone", "part"}]
        if row["heading"] != "No norm in it":
            assert all(cell["left"] >= own["left"] for cell in right), row["name"]


def test_it_has_every_pattern_once(patterns: Any) -> None:
    names = [pattern.name for _, pattern in patterns.every()]
    assert len(set(names)) == len(names)
    assert list(ROWS) == names, HINT


@pytest.mark.parametrize("name", ROWS)
def test_normfold_does_what_the_page_says(name: str, patterns: Any) -> None:
    (pattern,) = [pattern for _, pattern in patterns.every() if pattern.name == name]
    source = pattern.model()
    unknown, no_kernel = "com.microsoft" in pattern.body, pattern.inputs.startswith("double")
    folded = only_fold(source) if unknown else proven_fold(source, reference=no_kernel)
    column = ROWS[name]["tools"]["normfold"]
    decisions = [asdict(decision) for decision in folded.decisions.values()]
    found = patterns.decided(decisions) | patterns.summary(pattern, source, folded.result)
    assert found == {key: value for key, value in column.items() if key != "verdict"}, HINT


def test_networks_are_compared_with_the_best_peer() -> None:
    models = document("coverage.json")["models"]
    assert len(models) > 60
    assert {row["verdict"] for row in models} <= {"better", "equal"}


def test_files_of_packages_are_handed_over_with_no_more_norms_than_the_best_peer_leaves() -> None:
    models = {row["model"]: row for row in document("real.json")["models"]}
    assert len(models) >= 25
    for name, row in models.items():
        own = row["outcomes"]["normfold"]
        peers = [one for tool, one in row["outcomes"].items() if tool != "normfold" and one["status"] == "right"]
        assert not row["failures"], name
        assert own["status"] == "right" or row["runs"], name
        assert own["norms"] <= min((one["norms"] for one in peers), default=own["norms"]), name


def test_what_is_amiss_with_files_of_packages_is_on_the_page() -> None:
    page = (ROOT / "docs" / "reference" / "coverage.md").read_text(encoding="utf-8")
    models = document("real.json")["models"]
    assert models
    for row in models:
        assert "not explained" not in row["excess"], row["model"]
        assert all(f"* {row['model']}: {failure}" in page for failure in row["failures"])
