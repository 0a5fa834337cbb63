"""The published schema of figures: its closed list, and what it refuses."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest

import normfold
import timed
from normfold.errors import CODES
from normfold.report import schema


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Figures of one model, then a provider that is not there."""
    model = timed.products(tmp_path_factory.mktemp("models"), 3)
    effort = normfold.Effort(first=2, most=2, per_process=0.02, warm_up=0.0)
    good = normfold.bench(model, effort=effort).document()
    bad = normfold.bench(model, ep="cuda", effort=effort).document()
    return good | {"cells": good["cells"] + bad["cells"]}


def accepted(document: dict) -> bool:
    return bool(jsonschema.Draft202012Validator(schema.schema(schema.BENCH_FILE)).is_valid(document))


def test_the_schema_is_itself_valid_and_lists_every_code() -> None:
    published = schema.schema(schema.BENCH_FILE)
    jsonschema.Draft202012Validator.check_schema(published)
    assert published["$defs"]["code"]["enum"] == list(CODES), "run python -m normfold.report.schema"


def test_figures_and_refusals(document: dict) -> None:
    assert accepted(document)
    assert [cell["refused"] is None for cell in document["cells"]] == [True, False]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda it: it.update(schema="normfold.bench/2"),
        lambda it: it.pop("environment"),
        lambda it: it["cells"][0].update(figures=[]),
        lambda it: it["cells"][1].update(figures=it["cells"][0]["figures"]),
        lambda it: it["cells"][1]["refused"].update(code="made-up"),
        lambda it: it["cells"][0]["figures"][0].update(kind="guessed"),
        lambda it: it["cells"][0]["samples"][0]["ns"]["products3"][0].append(-1),
        lambda it: it["models"][0]["session"].update(intra_threads=0),
    ],
)
def test_what_it_refuses(document: dict, spoil: Callable[[dict], None]) -> None:
    changed = copy.deepcopy(document)
    spoil(changed)
    assert not accepted(changed)


def test_the_path_to_the_schema_is_the_packages() -> None:
    folder = Path(normfold.__file__).parent / "report" / "schemas"
    assert (folder / "normfold-bench-1.schema.json").samefile(schema.BENCH_FILE)
