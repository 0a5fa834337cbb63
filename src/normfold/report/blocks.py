"""What a report is made of: plain data that every renderer knows how to show.

A result says what it has found as a sequence of blocks; how they look on a terminal, in a notebook or in a
Markdown page is up to the renderers, which know blocks and nothing else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Literal

Tone = Literal["plain", "good", "caution", "bad"]
"""What a piece of text means to the reader, where colour can help."""
Align = Literal["left", "right"]

MARGIN: Final = 1.15
"""Room that a chart leaves on either side of its data, as a factor on the logarithmic scale."""


class Detail(IntEnum):
    """How much a report says."""

    SUMMARY = -1
    NORMAL = 0
    FULL = 1


@dataclass(frozen=True, slots=True)
class Heading:
    """What the blocks after it are about."""

    text: str


@dataclass(frozen=True, slots=True)
class Paragraph:
    """A sentence or a few."""

    text: str
    tone: Tone = "plain"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The sentence that a report comes down to."""

    text: str
    tone: Tone = "plain"


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its confidence bounds: a block of its own, a cell of a table or a row of a chart."""

    value: float
    low: float
    high: float
    label: str = ""
    unit: str = ""
    """Stands directly behind the value: ``x``, `` ms``."""

    @property
    def text(self) -> str:
        """``0.652x (0.648 to 0.657)``, without the label."""
        return f"{self.value:.4g}{self.unit} ({self.low:.4g} to {self.high:.4g})"


Cell = str | Interval
Row = tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Column:
    """Head and alignment of a table's column."""

    head: str = ""
    align: Align = "left"


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under columns; without rows there is nothing to show."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    tones: tuple[Tone, ...] = ()
    """Tone of each row's first cell; empty where all are plain."""
    notes: tuple[str, ...] = ()

    def tone(self, index: int) -> Tone:
        """Tone of the first cell of row ``index``."""
        return self.tones[index] if self.tones else "plain"


@dataclass(frozen=True, slots=True)
class KeyValues:
    """Names and their values."""

    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class ChartRow:
    """A ratio with its interval, and the single ratios that it was estimated from."""

    interval: Interval
    points: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Chart:
    """Ratios on a logarithmic scale with 1 in the middle."""

    rows: tuple[ChartRow, ...]
    reference: str
    """What a ratio of 1 stands for."""
    band: float = 0.0
    """Ratios from ``1 / (1 + band)`` to ``1 + band`` count as equal."""

    @property
    def reach(self) -> float:
        """Logarithm of the largest ratio on the scale, which ends at its inverse on the other side; above 0."""
        shown = [bound for row in self.rows for bound in (row.interval.low, row.interval.high, *row.points)]
        logs = [abs(math.log(ratio)) for ratio in shown if 0 < ratio < math.inf]
        return MARGIN * max(*logs, math.log1p(self.band), 1e-3)

    def position(self, ratio: float) -> float:
        """Where ``ratio`` stands between the ends of the scale, 0 to 1; what is beyond an end stands at it."""
        log = -math.inf if ratio <= 0 else math.log(ratio)
        reach = self.reach
        return (min(max(log, -reach), reach) + reach) / (2 * reach)


@dataclass(frozen=True, slots=True)
class Names:
    """Names under a title, in full, so that they can be copied; ``notes`` are sentences that hold for all of them."""

    title: str
    names: tuple[str, ...]
    notes: tuple[str, ...] = ()
    more: int = 0
    """How many are not listed."""
    tone: Tone = "plain"

    @property
    def rest(self) -> str:
        """What stands for those not listed; empty where there are none."""
        return f"and {self.more} more" if self.more else ""


@dataclass(frozen=True, slots=True)
class Code:
    """Lines to copy."""

    lines: tuple[str, ...]


Block = Heading | Paragraph | Verdict | Interval | Table | KeyValues | Chart | Names | Code
Blocks = tuple[Block, ...]
