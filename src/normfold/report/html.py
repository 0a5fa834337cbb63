"""Blocks as HTML: a fragment that needs no style sheet and no script, readable on light and on dark pages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape
from typing import Final, assert_never

from normfold.report.blocks import (
    Align,
    Block,
    Chart,
    ChartRow,
    Code,
    Column,
    Heading,
    Interval,
    KeyValues,
    Names,
    Paragraph,
    Row,
    Table,
    Tone,
    Verdict,
)
from normfold.report.text import cell_text
from normfold.report.words import printable

COLOURS: Final[dict[Tone, str]] = {"plain": "inherit", "good": "#1d8243", "caution": "#a06a00", "bad": "#d1342f"}
"""Dark enough for a white page and light enough for a black one."""
ACCENT: Final = "#2f78d2"
RULE: Final = "1px solid rgba(128,128,128,.35)"
MONOSPACE: Final = "font-family:monospace"
WIDTH: Final = 640
"""Of a chart, in pixels; that of the labels at its left, and the height of a line:"""
LABEL: Final = 200
LINE: Final = 26


def html(blocks: Iterable[Block]) -> str:
    """The whole report; every text is escaped."""
    return f'<div style="line-height:1.4">{"".join(part for block in blocks for part in _parts(block))}</div>'


def _parts(block: Block) -> Iterator[str]:
    match block:
        case Heading():
            yield f'<p style="margin:.6em 0 .3em;font-weight:600">{_escaped(block.text)}</p>'
        case Paragraph():
            yield _paragraph(block.text, block.tone)
        case Verdict():
            yield _paragraph(block.text, block.tone, "font-weight:600;")
        case Interval():
            yield _paragraph(f"{block.label} {block.text}".lstrip())
        case Table():
            yield from _table(block)
        case KeyValues():
            yield _grid((), (_row("td", pair, ("left", "left")) for pair in block.pairs))
        case Chart():
            yield _svg(block)
        case Names():
            yield _names(block)
        case Code():
            yield f'<pre style="margin:.3em 0 .3em 1em;{MONOSPACE}">{chr(10).join(map(_escaped, block.lines))}</pre>'
        case _:
            assert_never(block)


def _paragraph(text: str, tone: Tone = "plain", style: str = "") -> str:
    return f'<p style="margin:.3em 0;{style}color:{COLOURS[tone]}">{_escaped(text)}</p>'


def _names(block: Names) -> str:
    """Folded up, so that a long list does not push the verdict off the page."""
    listed = (f"<li>{_escaped(name)}</li>" for name in (*block.names, *filter(None, [block.rest])))
    return (
        f'<details style="margin:.3em 0"><summary style="color:{COLOURS[block.tone]}">{_escaped(block.title)}</summary>'
        f'{"".join(map(_paragraph, block.notes))}<ul style="margin:.3em 0;{MONOSPACE}">{"".join(listed)}</ul></details>'
    )


def _table(table: Table) -> Iterator[str]:
    aligns = [column.align for column in table.columns]
    if table.rows:
        rows = (_row("td", row, aligns, table.tone(index)) for index, row in enumerate(table.rows))
        yield _grid(table.columns, rows)
    yield from (_paragraph(f"note: {note}") for note in table.notes)


def _grid(columns: Iterable[Column], rows: Iterable[str]) -> str:
    listed = list(columns)
    aligns = [column.align for column in listed]
    heads = tuple(column.head for column in listed)
    head = f"<thead>{_row('th', heads, aligns)}</thead>" if any(heads) else ""
    return f'<table style="border-collapse:collapse;margin:.3em 0">{head}<tbody>{"".join(rows)}</tbody></table>'


def _row(tag: str, cells: Row, aligns: Iterable[Align], tone: Tone = "plain") -> str:
    colours = (COLOURS[tone], *(COLOURS["plain"] for _ in cells[1:]))
    written = (
        f'<{tag} style="text-align:{align};vertical-align:top;padding:.15em .8em .15em 0;border-bottom:{RULE};'
        f'color:{colour}">{_escaped(cell_text(cell))}</{tag}>'
        for cell, align, colour in zip(cells, aligns, colours, strict=True)
    )
    return f'<tr style="background:none">{"".join(written)}</tr>'


def _svg(chart: Chart) -> str:
    """A line a row: its interval, a dot for each single ratio, and the band within which ratios count as equal."""
    height = LINE * (len(chart.rows) + 1)
    left, right = _place(chart, 1 / (1 + chart.band)), _place(chart, 1 + chart.band)
    bottom, one = height - LINE, _place(chart, 1.0)
    parts = [
        f'<rect x="{left:.1f}" y="0" width="{right - left:.1f}" height="{bottom}" fill="currentColor" opacity=".15"/>',
        f'<line x1="{one:.1f}" x2="{one:.1f}" y1="0" y2="{bottom}" stroke="currentColor" opacity=".6"/>',
        _label(one, height - 8, f"1 = {chart.reference}", "middle"),
        *(part for index, row in enumerate(chart.rows) for part in _svg_row(chart, row, LINE * index + LINE / 2)),
    ]
    style = "color:inherit;max-width:100%"
    return f'<svg width="{WIDTH}" height="{height}" role="img" font-size="12" style="{style}">{"".join(parts)}</svg>'


def _svg_row(chart: Chart, row: ChartRow, y: float) -> Iterator[str]:
    low, high = _place(chart, row.interval.low), _place(chart, row.interval.high)
    yield _label(0, y + 4, row.interval.label, "start")
    yield f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{y}" y2="{y}" stroke="{ACCENT}" stroke-width="6"/>'
    for point in row.points:
        yield f'<circle cx="{_place(chart, point):.1f}" cy="{y}" r="3" fill="{COLOURS["caution"]}"/>'


def _place(chart: Chart, ratio: float) -> float:
    return LABEL + (WIDTH - LABEL) * chart.position(ratio)


def _label(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="currentColor">{_escaped(text)}</text>'


def _escaped(text: str) -> str:
    """Neither mark-up nor control characters, which XML has no place for."""
    return escape(printable(text))
