"""The base of every result: what follows from a report and a document."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from normfold.cli.application import VERBS
from normfold.errors import OutputError
from normfold.report import blocks, html, markdown, text
from normfold.report.blocks import Blocks, Detail, Heading, Paragraph
from normfold.report.result import Result

SOURCES = [Path(module.__file__ or "") for module in (blocks, html, markdown, text)]
WORDS = {*VERBS, "optimize", "quantize", "convert", "norm", "norms", "decision", "figure", "verification"}


@dataclass(frozen=True, slots=True, repr=False)
class Count(Result):
    lines: int

    def report(self, detail: Detail = Detail.NORMAL) -> Blocks:
        title = () if detail == Detail.SUMMARY else (Heading("lines"),)
        return (*title, *(Paragraph(f"line {number}") for number in range(self.lines)))

    def document(self) -> dict[str, Any]:
        return {"lines": self.lines}


def test_repr_is_the_summary_in_a_few_lines() -> None:
    assert repr(Count(2)) == "Count:\n  line 0\n  line 1"
    assert repr(Count(100)).splitlines()[-2:] == ["  line 5", "  ..."]
    assert len(repr(Count(100)).splitlines()) == 8


def test_str_is_the_whole_report() -> None:
    assert str(Count(1)) == "lines\nline 0"


def test_notebooks_get_html_and_markdown() -> None:
    assert "line 0" in Count(1)._repr_html_()
    assert Count(1)._repr_markdown_() == "### lines\n\nline 0\n"


def test_save_writes_the_document_whole_or_not_at_all(tmp_path: Path) -> None:
    Count(3).save(tmp_path / "count.json")
    assert json.loads((tmp_path / "count.json").read_text()) == {"lines": 3}
    for target in (tmp_path, tmp_path / "nowhere" / "count.json"):
        with pytest.raises(OutputError) as caught:
            Count(3).save(target)
        assert caught.value.code == "output-not-writable"
    assert [file.name for file in tmp_path.iterdir()] == ["count.json"]


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_renderers_know_no_verb(source: Path) -> None:
    """A new verb touches no renderer: the package's name aside, none of its words stands in one."""
    code = source.read_text(encoding="utf-8").replace('overflow="fold"', "").lower()
    assert WORDS.isdisjoint(re.findall("[a-z]+", code))
