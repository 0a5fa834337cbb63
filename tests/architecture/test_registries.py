"""A new rule or law is one file, one line in its registry, one page and one set of cases. This says what is missing."""

from __future__ import annotations

import importlib
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from normfold.core.premises import PREMISES
from normfold.core.rules import LAWS, RULES, Rewrite, Rule

ROOT = Path(__file__).resolve().parents[2]
SECTIONS = ("What it does", "When it holds", "Example", "Refused when")


def modules(room: str, machinery: set[str]) -> list[str]:
    """Names of the modules in a room that hold one entry each."""
    paths = (ROOT / "src" / "normfold" / room).glob("*.py")
    return sorted(path.stem for path in paths if path.stem not in {"__init__", *machinery})


RULE_MODULES = modules("core/rules", {"rule", "shared"})
LAW_MODULES = modules("core/laws", {"law"})


def test_every_rule_file_is_registered_once() -> None:
    assert sorted(rule.name for rule in RULES) == RULE_MODULES


def test_every_law_file_is_that_of_a_rule() -> None:
    assert sorted(law.name for law in LAWS) == LAW_MODULES


@pytest.mark.parametrize("name", RULE_MODULES)
def test_a_rule_carries_the_name_of_its_file(name: str) -> None:
    module = importlib.import_module(f"normfold.core.rules.{name}")
    assert module.RULE in RULES
    assert module.RULE.name == name


@pytest.mark.parametrize("name", LAW_MODULES)
def test_a_law_carries_the_name_of_its_file(name: str) -> None:
    module = importlib.import_module(f"normfold.core.laws.{name}")
    assert module.LAW in LAWS
    assert module.LAW.name == name


@pytest.mark.parametrize("name", RULE_MODULES)
def test_a_rule_is_documented(name: str) -> None:
    lines = (importlib.import_module(f"normfold.core.rules.{name}").__doc__ or "").splitlines()
    assert [line[:-1] for line in lines if line.rstrip(":") in SECTIONS] == list(SECTIONS)


@pytest.mark.parametrize("name", LAW_MODULES)
def test_a_law_is_documented(name: str) -> None:
    doc = importlib.import_module(f"normfold.core.laws.{name}").__doc__ or ""
    assert "Premises:" in doc
    assert "Counter-example:" in doc


@pytest.mark.parametrize("name", RULE_MODULES)
def test_a_rule_has_cases(name: str) -> None:
    cases = ROOT / "tests" / "core" / "rules"
    assert (cases / f"{name}.md").exists() or (cases / f"test_{name}.py").exists()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_rules_page_names_its_premises(rule: Rule[Any, Any] | Rewrite[Any, Any]) -> None:
    """Every premise that a rule tests stands on its page; what else stands there is one that a backend refuses by."""
    doc = importlib.import_module(f"normfold.core.rules.{rule.name}").__doc__ or ""
    named = re.findall(r"``([a-z-]+)``", doc.partition("Refused when:\n")[2])
    tested = {str(premise) for premise, _ in rule.premises}
    assert tested <= set(named) <= PREMISES.keys()
    assert tested == set(named) or rule.name in NATIVE


NATIVE = {"bake_normalised_weight", "emit_norm"}
"""Rules whose premises the lifts of the backends test: what they see is native."""


@pytest.mark.parametrize("rule", [rule for rule in RULES if isinstance(rule, Rewrite)], ids=lambda rule: rule.name)
def test_a_rewrite_has_a_case_that_breaks_each_premise_alone(rule: Rewrite[Any, Any]) -> None:
    cases = runpy.run_path(str(ROOT / "tests" / "core" / "rules" / f"test_{rule.name}.py"))
    assert set(cases.get("REFUSED", ())) == {str(premise) for premise, _ in rule.premises}
