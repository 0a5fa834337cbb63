"""A new rule or law is one file, one line in its registry, one page and one set of cases. This says what is missing."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from normfold.core.laws import LAWS
from normfold.core.premises import PREMISES
from normfold.core.rules import RULES, Rule

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


def test_every_law_file_is_registered_once() -> None:
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


def test_every_refusal_in_a_rules_page_is_one_of_its_premises() -> None:
    """What the page calls a reason to refuse is a premise, and every premise that a rule tests stands there."""
    for rule in RULES:
        doc = importlib.import_module(f"normfold.core.rules.{rule.name}").__doc__ or ""
        _, _, refused = doc.partition("Refused when:\n")
        named = set(re.findall(r"\(``([a-z-]+)``\)", refused))
        assert named <= PREMISES.keys(), rule.name
        tested = {name for name, _ in rule.premises} if isinstance(rule, Rule) else set()
        assert tested <= set(re.findall(r"``([a-z-]+)``", refused)), rule.name
