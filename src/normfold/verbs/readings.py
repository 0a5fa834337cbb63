"""What targets without a clock say, as blocks: no number of them is a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from normfold.measure.candidate import Candidate
from normfold.measure.figures import Cell, Reading, instructions
from normfold.report.blocks import Blocks, Column, Detail, Paragraph, Row, Table, Verdict

SHOWN: Final = ("multiply", "dot", "vector_load", "vector_store", "load", "store", "branch")
"""Classes of instructions with a column; the others are in the document."""
COUNTED: Final = tuple(
    Column(head, "right") for head in ("instructions", *(name.replace("_", " ") for name in SHOWN), "bytes moved")
)
REMARKS: Final = {
    "counted": "Instructions that an emulated processor executes in one run, in millions: not the time that they take.",
    "emulated": "Outputs of an emulator: no time was measured.",
}
MILLION: Final = 1e6


def reading_blocks(models: Sequence[Candidate], cell: Cell, detail: Detail) -> Blocks:
    """A row for each model: how far its outputs deviate from this machine's, and its counts."""
    largest = max(one.deviation for one in cell.readings)
    verdict = Verdict(f"outputs as on this machine: they deviate by at most {largest:.1e} of their range", "good")
    if detail == Detail.SUMMARY:
        return (verdict,)
    counted = COUNTED if cell.kind == "counted" else ()
    sizes = {model.name: model.nbytes for model in models}
    rows = tuple(_row(one, sizes[one.name]) for one in cell.readings)
    columns = (Column("model"), *counted, Column("deviation", "right"), Column("file", "right"))
    return Table(columns, rows, notes=cell.warnings), Paragraph(REMARKS[cell.kind]), verdict


def _row(reading: Reading, size: int | None) -> Row:
    counts = reading.counts
    moved = counts.get("bytes_loaded", 0) + counts.get("bytes_stored", 0)
    shown = (instructions(counts), *(counts.get(name, 0) for name in SHOWN), moved) if counts else ()
    file = "-" if size is None else f"{size / 2**20:.3g} MiB"
    return reading.name, *(f"{count / MILLION:.4g}" for count in shown), f"{reading.deviation:.1e}", file
