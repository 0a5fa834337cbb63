"""`scripts/mutants.py` finds the guards of every rule and of both backends, and excuses few of them."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from normfold.core.rules import RULES

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "normfold"


@pytest.fixture(scope="module")
def script() -> dict[str, object]:
    return runpy.run_path(str(ROOT / "scripts" / "mutants.py"))


@pytest.fixture(scope="module")
def found(script: dict[str, object]) -> list[tuple[str, str]]:
    """File and name of every mutant."""
    return [(mutant.home.relative_to(PACKAGE).as_posix(), mutant.name) for mutant in script["mutants"]()]


def test_every_rule_file_has_mutants(found: list[tuple[str, str]]) -> None:
    assert {f"core/rules/{rule.name}.py" for rule in RULES} <= {home for home, _ in found}


def test_every_premise_of_every_rule_is_deleted_once(found: list[tuple[str, str]]) -> None:
    names = [name for _, name in found]
    for rule in RULES:
        for premise, _ in rule.premises:
            assert names.count(f"core/rules/{rule.name}.py RULE {premise}") == 1


@pytest.mark.parametrize("room", ["core", "backends"])
def test_every_file_that_refuses_has_mutants(found: list[tuple[str, str]], room: str) -> None:
    homes = {home for home, _ in found}
    files = [path for path in (PACKAGE / room).rglob("*.py") if "/rules/" not in path.as_posix()]
    refusing = [
        path for path in files if any(f"{word}(" in path.read_text("utf-8") for word in ("NotLifted", "Refusal"))
    ]
    assert {path.relative_to(PACKAGE).as_posix() for path in refusing} - homes <= DEFINING


DEFINING = {"core/views.py"}
"""Files that say what a refusal is, and make none."""


def test_mutants_have_names_of_their_own(found: list[tuple[str, str]]) -> None:
    assert len({name for _, name in found}) == len(found)


def test_few_mutants_are_excused(script: dict[str, object], found: list[tuple[str, str]]) -> None:
    """Those that no test can tell from the package, each with its reason."""
    excused = script["EQUIVALENT"]
    assert isinstance(excused, dict)
    assert excused.keys() <= {name for _, name in found}
    assert len(excused) <= 0.02 * len(found)
