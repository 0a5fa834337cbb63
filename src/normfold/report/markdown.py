"""Blocks as Markdown, as GitHub reads it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from html import escape
from typing import Final, assert_never

from normfold.report.blocks import (
    Block,
    Chart,
    Code,
    Column,
    Heading,
    Interval,
    KeyValues,
    Names,
    Paragraph,
    Row,
    Table,
    Verdict,
)
from normfold.report.text import cell_text, chart_lines
from normfold.report.words import printable

SPECIAL: Final = re.compile(r"([\\`*_{}\[\]<>#|~&])")

MARKS: Final[dict[type[Block], tuple[str, str]]] = {Heading: ("### ", ""), Paragraph: ("", ""), Verdict: ("**", "**")}
"""What stands before and behind a text of each kind."""


def markdown(blocks: Iterable[Block]) -> str:
    """The whole report, its blocks a blank line apart; every text is escaped."""
    return "\n".join(f"{part}\n" for block in blocks for part in _parts(block))


def _parts(block: Block) -> Iterator[str]:
    match block:
        case Heading() | Paragraph() | Verdict():
            before, after = MARKS[type(block)]
            yield f"{before}{_escaped(block.text)}{after}"
        case Interval():
            yield _escaped(f"{block.label} {block.text}".lstrip())
        case Table():
            if block.rows:
                yield _table(block.columns, block.rows)
            yield from (_escaped(f"note: {note}") for note in block.notes)
        case KeyValues():
            yield "\n".join(f"- {_escaped(name)}: {_escaped(value)}" for name, value in block.pairs)
        case Chart():
            yield _fenced(chart_lines(block))
        case Names():
            yield _names(block)
        case Code():
            yield _fenced(map(printable, block.lines))
        case _:
            assert_never(block)


def _names(block: Names) -> str:
    """Folded up, as GitHub shows it; blank lines, or it would not read what is inside as Markdown."""
    listed = "\n".join(f"- {_escaped(name)}" for name in (*block.names, *filter(None, [block.rest])))
    parts = (f"<details><summary>{escape(printable(block.title))}</summary>", *map(_escaped, block.notes), listed)
    return "\n\n".join((*parts, "</details>"))


def _table(columns: Iterable[Column], rows: Iterable[Row]) -> str:
    listed = list(columns)
    lines = [
        _row(column.head for column in listed),
        f"|{'|'.join('---:' if column.align == 'right' else '---' for column in listed)}|",
        *(_row(map(cell_text, row)) for row in rows),
    ]
    return "\n".join(lines)


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(map(_escaped, cells))} |"


def _fenced(lines: Iterable[str]) -> str:
    listed = list(lines)
    longest = max((len(run) for line in listed for run in re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return "\n".join((f"{fence}text", *listed, fence))


def _escaped(text: str) -> str:
    return SPECIAL.sub(r"\\\1", " ".join(printable(text).split()))
