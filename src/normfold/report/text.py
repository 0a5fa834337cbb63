"""Blocks as text: aligned lines for a pipe or a file, colours and wrapped cells for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, assert_never

from normfold.report.blocks import (
    Align,
    Block,
    Cell,
    Chart,
    Code,
    Heading,
    Interval,
    KeyValues,
    Names,
    Paragraph,
    Table,
    Tone,
    Verdict,
)
from normfold.report.words import printable

if TYPE_CHECKING:
    from rich.console import RenderableType

STYLES: Final[dict[Tone, str]] = {"plain": "", "good": "green", "caution": "yellow", "bad": "bold red"}
INDENT: Final = "  "
GAP: Final = "  "
"""Between columns."""
SCALE: Final = 41
"""Characters of a chart's scale; odd, so that 1 has the middle one."""
WIDTH: Final = 80
"""Columns within which sentences below a title are wrapped; names are never broken."""


def plain(blocks: Iterable[Block]) -> str:
    """Lines without colours and without padding at their ends, each ended by a newline; names are escaped."""
    return "".join(f"{line}\n" for block in blocks for line in block_lines(block))


def coloured(blocks: Iterable[Block], width: int | None = None) -> str:
    """The same for a terminal of ``width`` columns (its own by default), with its control sequences."""
    from rich.console import Console

    console = Console(width=width, force_terminal=True, highlight=False, markup=False, emoji=False)
    with console.capture() as captured:
        for block in blocks:
            for part in _styled(block):
                console.print(part)
    return captured.get()


def block_lines(block: Block) -> Iterator[str]:
    """The lines of one block."""
    match block:
        case Heading() | Paragraph() | Verdict():
            yield printable(block.text)
        case Interval():
            yield printable(f"{block.label} {block.text}".lstrip())
        case Table():
            yield from _aligned(_table_cells(block), [column.align for column in block.columns])
            yield from (f"{INDENT}note: {printable(note)}" for note in block.notes)
        case KeyValues():
            yield from _aligned([tuple(map(printable, pair)) for pair in block.pairs], ["left", "left"])
        case Chart():
            yield from chart_lines(block)
        case Names():
            yield from _name_lines(block)
        case Code():
            yield from (f"{INDENT}{INDENT}{printable(line)}" for line in block.lines)
        case _:
            assert_never(block)


def chart_lines(chart: Chart) -> Iterator[str]:
    """A scale a row: ``=`` is the interval, ``o`` the estimate, ``|`` a ratio of 1."""
    rows = [(printable(row.interval.label), _scale(chart, row.interval), row.interval.text) for row in chart.rows]
    legend = ("", f"{'|':^{SCALE}}", f"| is {printable(chart.reference)}")
    yield from _aligned([*rows, legend] if rows else [], ["left", "left", "left"])


def _name_lines(block: Names) -> Iterator[str]:
    yield f"{INDENT}{printable(block.title)}"
    for note in block.notes:
        wrapped = textwrap.wrap(
            printable(note), WIDTH - 4 * len(INDENT), break_long_words=False, break_on_hyphens=False
        )
        yield from (f"{INDENT * 3}{line}" for line in wrapped)
    listed = (*map(printable, block.names), *filter(None, [block.rest]))
    yield from (f"{INDENT * 2}{name}" for name in listed)


def cell_text(cell: Cell) -> str:
    """What stands in a table's cell."""
    return cell.text if isinstance(cell, Interval) else cell


def _scale(chart: Chart, interval: Interval) -> str:
    def place(ratio: float) -> int:
        return round(chart.position(ratio) * (SCALE - 1))

    marks = ["."] * SCALE
    marks[place(interval.low) : place(interval.high) + 1] = "=" * (place(interval.high) + 1 - place(interval.low))
    marks[SCALE // 2] = "|"
    marks[place(interval.value)] = "o"
    return "".join(marks)


def _table_cells(table: Table) -> list[tuple[str, ...]]:
    """Rows of escaped text, the heads first where there are any; none where the table has no rows."""
    if not table.rows:
        return []
    heads = tuple(column.head for column in table.columns)
    rows = [tuple(printable(cell_text(cell)) for cell in row) for row in table.rows]
    return [heads, *rows] if any(heads) else rows


def _aligned(rows: Sequence[tuple[str, ...]], aligns: Sequence[Align]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (
            cell.rjust(width) if align == "right" else cell.ljust(width)
            for cell, width, align in zip(row, widths, aligns, strict=True)
        )
        yield f"{INDENT}{GAP.join(cells)}".rstrip()


def _styled(block: Block) -> Iterator[RenderableType]:
    from rich.text import Text

    match block:
        case Heading():
            yield Text(printable(block.text), style="bold")
        case Paragraph() | Verdict():
            yield Text(printable(block.text), style=STYLES[block.tone])
        case Names():
            title, *rest = block_lines(block)
            yield Text(title, style=STYLES[block.tone])
            yield from map(Text, rest)
        case Table():
            if block.rows:
                yield _grid(block)
            yield from (Text(f"{INDENT}note: {printable(note)}") for note in block.notes)
        case _:
            yield from map(Text, block_lines(block))


def _grid(table: Table) -> RenderableType:
    from rich.table import Table as Grid
    from rich.text import Text

    heads = [column.head for column in table.columns]
    grid = Grid(box=None, show_header=any(heads), padding=(0, 2, 0, 0), header_style="dim")
    for column in table.columns:
        grid.add_column(column.head, justify=column.align, overflow="fold")
    for index, row in enumerate(table.rows):
        first, *rest = (printable(cell_text(cell)) for cell in row)
        grid.add_row(Text(first, style=STYLES[table.tone(index)]), *map(Text, rest))
    return grid
