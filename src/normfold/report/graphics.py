"""Charts of the HTML report as SVG: bars before and after, and a scatter plot of accuracy and time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from normfold.report.words import printable

WIDTH: Final = 760
LABEL: Final = 220
"""Of the names at the left of bars."""
BAR: Final = 11
ROW: Final = 34
PLOT: Final = (680, 320)
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 18, 44
"""Margins of a plot."""
TICKS: Final = 5
LETTER: Final = 6.6
"""Width of a letter, about."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One quantity before and after; None where there is none."""

    label: str
    before: float | None
    after: float | None


@dataclass(frozen=True, slots=True)
class Dot:
    """One model of a scatter plot, with the bounds of its interval in both directions."""

    label: str
    x: tuple[float, float, float]
    """Value, low and high."""
    y: tuple[float, float, float]
    chosen: bool = False


def bars(rows: Sequence[Bar], unit: str, title: str) -> str:
    """Two bars a row, on one scale."""
    most = max((value for row in rows for value in (row.before, row.after) if value is not None), default=0.0) or 1.0
    height = ROW * len(rows) + 4
    parts = [part for index, row in enumerate(rows) for part in _bar(row, index * ROW + 4, most, unit)]
    return _svg(WIDTH, height, title, parts)


def _bar(row: Bar, y: float, most: float, unit: str) -> Iterator[str]:
    yield _text(LABEL - 10, y + BAR + 3, row.label, "end")
    for offset, value, kind in ((0, row.before, "before"), (BAR + 2, row.after, "after")):
        length = 0.0 if value is None else (WIDTH - LABEL - 110) * value / most
        said = "-" if value is None else f"{value:.3g} {unit}"
        yield f'<rect class="{kind}" x="{LABEL}" y="{y + offset}" width="{max(length, 1):.1f}" height="{BAR}" rx="2"/>'
        yield _text(LABEL + length + 6, y + offset + BAR - 2, said, "start", "small")


def scatter(dots: Sequence[Dot], across: str, up: str, title: str) -> str:
    """The dots with their intervals, the chosen one marked, on scales that hold all of them."""
    width, height = PLOT
    xs, ys = _scale(dots, 0), _scale(dots, 1)

    def at(x: float, y: float) -> tuple[float, float]:
        across, up = (_share(value, scale) for value, scale in ((x, xs), (y, ys)))
        return LEFT + (width - LEFT - RIGHT) * across, height - BOTTOM - (height - TOP - BOTTOM) * up

    parts = [*_axes(xs, ys, across, up)]
    labels: list[tuple[float, float, float]] = []
    for dot in dots:
        x, y = at(dot.x[0], dot.y[0])
        (left, _), (right, _) = at(dot.x[1], dot.y[0]), at(dot.x[2], dot.y[0])
        (_, low), (_, high) = at(dot.x[0], dot.y[1]), at(dot.x[0], dot.y[2])
        kind = "dot chosen" if dot.chosen else "dot"
        parts.append(f'<path class="whisker" d="M{left:.1f} {y:.1f}H{right:.1f}M{x:.1f} {low:.1f}V{high:.1f}"/>')
        parts.append(f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{7 if dot.chosen else 5}"/>')
        parts.append(_label(dot.label, x, y, labels))
    return _svg(width, height, title, parts)


def _label(text: str, x: float, y: float, taken: list[tuple[float, float, float]]) -> str:
    """A label beside a dot where no other one is; ``taken`` has the ends and the line of those that are there."""
    anchor, wide = ("end" if x > PLOT[0] * 0.7 else "start"), LETTER * len(text)
    left = x - 10 - wide if anchor == "end" else x + 10
    lines = (y + offset for offset in (-8, 18, -24, 34, -40, 50))
    free = (
        line
        for line in lines
        if not any(abs(line - other) < 14 and left < end and begin < left + wide for begin, end, other in taken)
    )
    line = next(free, y - 8)
    taken.append((left, left + wide, line))
    return _text(x + (-10 if anchor == "end" else 10), line, text, anchor)


def _axes(xs: tuple[float, float], ys: tuple[float, float], across: str, up: str) -> Iterator[str]:
    width, height = PLOT
    for tick in range(TICKS):
        share = tick / (TICKS - 1)
        x, y = LEFT + (width - LEFT - RIGHT) * share, height - BOTTOM - (height - TOP - BOTTOM) * share
        yield f'<path class="grid" d="M{x:.1f} {TOP}V{height - BOTTOM}M{LEFT} {y:.1f}H{width - RIGHT}"/>'
        yield _text(x, height - BOTTOM + 16, f"{xs[0] + (xs[1] - xs[0]) * share:.3g}", "middle", "small")
        yield _text(LEFT - 8, y + 4, f"{ys[0] + (ys[1] - ys[0]) * share:.4g}", "end", "small")
    yield _text((LEFT + width - RIGHT) / 2, height - 6, across, "middle")
    yield _text(LEFT, TOP - 6, up, "start")


def _share(value: float, scale: tuple[float, float]) -> float:
    """Where a value stands on a scale, 0 to 1; what is beyond an end stands at it."""
    low, high = scale
    return (min(max(value, low), high) - low) / (high - low)


def _scale(dots: Sequence[Dot], axis: int) -> tuple[float, float]:
    bounds = [bound for dot in dots for bound in (dot.x, dot.y)[axis] if math.isfinite(bound)]
    low, high = min(bounds), max(bounds)
    room = (high - low) * 0.08 or abs(high) * 0.05 or 1.0
    return low - room, high + room


def _svg(width: int, height: int, title: str, parts: Sequence[str]) -> str:
    inner = "".join(parts)
    return (
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{_escaped(title)}">'
        f"<title>{_escaped(title)}</title>{inner}</svg>"
    )


def _text(x: float, y: float, text: str, anchor: str, kind: str = "") -> str:
    named = f' class="{kind}"' if kind else ""
    return f'<text{named} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{_escaped(text)}</text>'


def _escaped(text: str) -> str:
    return escape(printable(text))
