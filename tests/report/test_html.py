"""Blocks as HTML: well-formed, self-contained, escaped, readable on light and on dark pages."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from normfold.report.blocks import Chart, ChartRow, Code, Column, Heading, Interval, KeyValues, Names, Paragraph, Table
from normfold.report.html import ACCENT, COLOURS, html
from report_samples import HOSTILE, SAMPLES


def parsed(page: str) -> ET.Element:
    return ET.fromstring(page)  # noqa: S314 - our own


def test_every_block() -> None:
    root = parsed(html(SAMPLES))
    assert [element.tag for element in root] == ["p", "table", "p", "table", "svg", "p", "p", "p", "details", "pre"]
    assert ["".join(row.itertext()) for row in root.findall(".//tr")] == [
        "outcomecounttime",
        "folded120.652x (0.648 to 0.657)",
        "kept3-",
        "python3.13",
        "processorAbacus",
    ]
    assert len(root.findall(".//svg/circle")) == 2
    assert [label.text for label in root.findall(".//svg/text")] == ["1 = a", "b", "c"]
    assert root[-1].text == "import b\nb.load('b.json')"


def test_columns_are_aligned() -> None:
    cells = parsed(html(SAMPLES)).findall("table[1]/tbody/tr[1]/td")
    assert [re.findall(r"text-align:(\w+)", cell.get("style", "")) for cell in cells] == [["left"], ["right"], ["left"]]


def test_it_needs_nothing_from_elsewhere() -> None:
    page = html(SAMPLES)
    assert not re.search(r"<(script|link|style|img)|https?:|url\(|class=", page)


@pytest.mark.parametrize(
    "block",
    [
        Heading(HOSTILE),
        Paragraph(HOSTILE),
        Code((HOSTILE,)),
        KeyValues(((HOSTILE, HOSTILE),)),
        Table((Column("x"),), ((HOSTILE,),), notes=(HOSTILE,)),
        Names(HOSTILE, (HOSTILE,), (HOSTILE,)),
        Chart((ChartRow(Interval(1, 1, 1, HOSTILE)),), HOSTILE),
    ],
)
def test_names_are_escaped(block) -> None:
    page = html((block,))
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    parsed(page)


def luminance(colour: str) -> float:
    channels = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
    linear = [one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("colour", sorted({*COLOURS.values(), ACCENT} - {"inherit"}))
@pytest.mark.parametrize("page", ["#ffffff", "#111111"])
def test_colours_stand_out_on_light_and_on_dark_pages(colour: str, page: str) -> None:
    """WCAG's contrast for large or bold text, at least."""
    bright, dark = sorted((luminance(colour), luminance(page)), reverse=True)
    assert (bright + 0.05) / (dark + 0.05) >= 3.5
