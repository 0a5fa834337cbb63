"""Every verb's result is of one shape."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil

import pytest

import normfold
import normfold.verbs
from normfold.report.result import Result


def result_types() -> list[type[Result]]:
    """The results that the modules of the verbs define."""
    found = set()
    for module in pkgutil.walk_packages(normfold.verbs.__path__, "normfold.verbs."):
        members = inspect.getmembers(importlib.import_module(module.name), inspect.isclass)
        found |= {one for _, one in members if issubclass(one, Result) and one is not Result}
    return sorted(found, key=lambda one: one.__name__)


pytest.importorskip("torch", reason="some verbs need it")
RESULTS = result_types()


def test_there_are_results() -> None:
    assert {"BenchResult", "FoldResult", "InspectResult", "VerifyResult"} <= {one.__name__ for one in RESULTS}


@pytest.mark.parametrize("kind", RESULTS, ids=lambda kind: kind.__name__)
def test_a_result_shows_itself_by_its_report(kind: type[Result]) -> None:
    assert dataclasses.is_dataclass(kind)
    assert not inspect.isabstract(kind)
    for shown in ("__repr__", "__str__", "_repr_html_", "_repr_markdown_"):
        assert getattr(kind, shown) is getattr(Result, shown), shown


@pytest.mark.parametrize("kind", RESULTS, ids=lambda kind: kind.__name__)
def test_a_result_is_public(kind: type[Result]) -> None:
    assert kind.__name__ in normfold.__all__
