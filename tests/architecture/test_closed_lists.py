"""Premise names and error codes are closed lists: everything used is listed, everything listed is used."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

from normfold import errors
from normfold.core import premises
from normfold.core.premises import PREMISES
from normfold.core.rules import LAWS, RULES
from normfold.errors import CODES
from normfold.records import Premise

SOURCE = Path(__file__).resolve().parents[2] / "src" / "normfold"
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(SOURCE.rglob("*.py"))}
ERRORS = {name for name, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.NormfoldError)}


def first_arguments(callables: set[str], keyword: str) -> Iterator[tuple[str, str]]:
    """File and each string that a call of one of ``callables`` may pass as its first argument."""
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or ast.unparse(node.func).rpartition(".")[2] not in callables:
                continue
            given = [*node.args[:1], *(word.value for word in node.keywords if word.arg == keyword)]
            for argument in given[:1]:
                yield from ((path.name, text) for text in strings(argument))


def strings(expression: ast.expr) -> Iterator[str]:
    """The strings that an expression may be: a literal, or either side of a choice between literals."""
    if isinstance(expression, ast.IfExp):
        yield from strings(expression.body)
        yield from strings(expression.orelse)
    elif isinstance(expression, ast.Constant) and isinstance(expression.value, str):
        yield expression.value


def literals(*, outside: str) -> set[str]:
    """Every string in the source, except in the file that holds the list itself."""
    trees = (tree for path, tree in TREES.items() if path.name != outside)
    return {
        node.value
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def test_a_premise_in_a_refusal_is_a_constant() -> None:
    assert list(first_arguments({"Refusal", "NotLifted"}, "premise")) == []


def test_a_premise_has_a_constant_of_its_name() -> None:
    assert {name for name, value in vars(premises).items() if isinstance(value, Premise)} == set(
        map(constant, PREMISES)
    )


def constant(premise: str) -> str:
    """What the constant of a premise is called."""
    return premise.replace("-", "_").upper()


def test_every_premise_of_a_rule_is_listed() -> None:
    assert {name for rule in RULES for name, _ in rule.premises} <= PREMISES.keys()


def test_every_premise_of_a_law_is_listed() -> None:
    assert {name for law in LAWS for name in law.premises} <= PREMISES.keys()


def test_every_listed_premise_can_reach_a_user() -> None:
    """A rule tests it, or something refuses by it; a law that names it, or an import, tells nobody."""
    tested = {constant(premise) for rule in RULES for premise, _ in rule.premises}
    assert set(map(constant, PREMISES)) - tested - set(refused_by()) == set()


def refused_by() -> Iterator[str]:
    """The constants by which something refuses: the first argument of what makes a refusal."""
    for tree in TREES.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in {"Refusal", "NotLifted"}:
                yield from (name.id for name in ast.walk(node.args[0]) if isinstance(name, ast.Name))


def test_every_error_code_is_listed() -> None:
    assert [use for use in first_arguments(ERRORS, "code") if use[1] not in CODES] == []


def test_every_listed_error_code_is_used() -> None:
    assert CODES.keys() <= literals(outside="errors.py")
