"""One block of each kind, with names that try to be more than names."""

from __future__ import annotations

from normfold.report.blocks import (
    Blocks,
    Chart,
    ChartRow,
    Code,
    Column,
    Heading,
    Interval,
    KeyValues,
    Names,
    Paragraph,
    Table,
    Verdict,
)

RATIO = Interval(0.652, 0.648, 0.657, "b", "x")
HOSTILE = "bn\x1b]0;gotcha\x07[bold]\u202e<script>`|*"
SAMPLES: Blocks = (
    Heading("a -> b"),
    Table(
        (Column("outcome"), Column("count", "right"), Column("time")),
        (("folded", "12", RATIO), ("kept", "3", "-")),
        ("good", "bad"),
        ("one note",),
    ),
    Table((Column("nothing"),), ()),
    KeyValues((("python", "3.13"), ("processor", "Abacus"))),
    Chart((ChartRow(RATIO, (0.65, 0.66)), ChartRow(Interval(1.25, 1.2, 1.3, "c", "x"))), "a", 0.02),
    Interval(1.5, 1.25, 2.0, "a takes", " ms"),
    Paragraph("Two of three."),
    Verdict("b takes less time: faster", "good"),
    Names("kept for one reason:", ("bn1", "bn2"), ("one: a sentence.",), 7, "bad"),
    Code(("import b", "b.load('b.json')")),
)
