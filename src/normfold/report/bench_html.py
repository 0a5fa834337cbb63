"""Figures as a notebook shows them: the table, the verdicts, and each ratio as a picture."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

from normfold.measure.candidate import Candidate
from normfold.measure.figures import Cell
from normfold.measure.statistics import THRESHOLD
from normfold.report.bench_text import HEAD, figure_row, title, verdict_sentence
from normfold.report.html import paragraph, table

WIDTH: Final = 640
"""Of the picture, in pixels; that of the names at its left, and the height of a line:"""
LABEL: Final = 200
ROW: Final = 26
MARGIN: Final = 1.15
"""Room on either side of what is shown."""


def bench_html(models: Sequence[Candidate], cells: Iterable[Cell]) -> str:
    """Everything, self-contained."""
    return "".join(_cell_html(models, cell) for cell in cells)


def _cell_html(models: Sequence[Candidate], cell: Cell) -> str:
    head = paragraph(title(models[0].profile.provider, cell))
    if cell.refused is not None:
        return head + paragraph(f"no figures [{cell.refused.code}]: {cell.refused.message}")
    sizes = {model.name: model.nbytes for model in models}
    rows = (figure_row(figure, cell, sizes[figure.name]) for figure in cell.figures)
    verdicts = (verdict_sentence(cell.figures[0].name, *pair) for pair in cell.comparisons.items())
    notes = (f"note: {warning}" for warning in cell.warnings)
    return head + table(HEAD, rows) + _ratios_svg(cell) + "".join(map(paragraph, (*verdicts, *notes)))


def _ratios_svg(cell: Cell) -> str:
    """A line for each comparison: the interval, a dot for each process, and the band within which times are equal."""
    if not cell.comparisons:
        return ""
    dots = {name: [sample.log_ratio(name) for sample in cell.samples] for name in cell.comparisons}
    ends = [bound for one in cell.comparisons.values() for bound in (one.ratio.low, one.ratio.high)]
    bounds = [math.log(bound) for bound in ends if 0 < bound < math.inf]
    shown = [*bounds, *(dot for values in dots.values() for dot in values), math.log1p(THRESHOLD)]
    reach = MARGIN * max(abs(value) for value in shown)

    def place(log: float) -> float:
        inside = min(max(log, -reach), reach)
        return LABEL + (WIDTH - LABEL) * (inside + reach) / (2 * reach)

    height = ROW * len(dots) + ROW
    band = place(math.log1p(THRESHOLD)) - place(-math.log1p(THRESHOLD))
    parts = [
        f'<rect x="{place(-math.log1p(THRESHOLD)):.1f}" y="0" width="{band:.1f}" height="{height - ROW}" fill="#ddd"/>',
        f'<line x1="{place(0):.1f}" x2="{place(0):.1f}" y1="0" y2="{height - ROW}" stroke="#888"/>',
        _text(place(0), height - 8, f"1 = {cell.figures[0].name}", "middle"),
        _text(LABEL, height - 8, f"{math.exp(-reach):.3g}x", "start"),
        _text(WIDTH, height - 8, f"{math.exp(reach):.3g}x", "end"),
    ]
    for index, (name, one) in enumerate(cell.comparisons.items()):
        y = ROW * index + ROW / 2
        low, high = (place(math.log(bound) if bound else -reach) for bound in (one.ratio.low, one.ratio.high))
        parts.append(_text(0, y + 4, name, "start"))
        parts.append(f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{y}" y2="{y}" stroke="#06c" stroke-width="6"/>')
        parts += (f'<circle cx="{place(dot):.1f}" cy="{y}" r="3" fill="#f60"/>' for dot in dots[name])
    return f'<svg width="{WIDTH}" height="{height}" role="img" font-size="12">{"".join(parts)}</svg>'


def _text(x: float, y: float, words: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'
