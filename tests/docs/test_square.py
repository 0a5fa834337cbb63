"""The data of the page on modules and files: whole networks, on which both ways come to the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "docs" / "data" / "square.json"

pytestmark = pytest.mark.skipif(not DATA.is_file(), reason="a source distribution without the pages")


def networks() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DATA.read_text(encoding="utf-8"))["models"]
    return found


def test_there_are_networks_of_three_packages() -> None:
    rows = networks()
    assert len(rows) >= 60
    assert {row["source"] for row in rows} == {"timm", "torchvision", "transformers"}


def test_none_is_wrong_and_none_failed() -> None:
    assert {row["verdict"] for row in networks()} == {"equal"}


def test_both_ways_keep_the_same_norms() -> None:
    assert not [parting for row in networks() for parting in row["partings"]]


def test_folding_early_leaves_no_more() -> None:
    assert all(row["left"]["both"] <= row["left"]["exported, folded"] for row in networks())
