"""What targets without a clock say, as blocks: no number of them is a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from normfold.measure.candidate import Candidate
from normfold.measure.figures import Cell, Compiled, Reading, instructions
from normfold.report.blocks import Blocks, Column, Detail, Paragraph, Row, Table, Verdict
from normfold.report.words import plural
from normfold.runtime.targets import FigureKind

SHOWN: Final = ("multiply", "dot", "vector_load", "vector_store", "load", "store", "branch")
"""Classes of instructions with a column; the others are in the document."""
COLUMNS: Final[dict[FigureKind, tuple[str, ...]]] = {
    "counted": ("instructions", *(name.replace("_", " ") for name in SHOWN), "bytes moved"),
    "compiled": ("nodes compiled", "left to others", "context"),
}
"""Between the model and the deviation."""
REMARKS: Final[dict[FigureKind, str]] = {
    "counted": "Instructions that an emulated processor executes in one run, in millions: not the time that they take.",
    "compiled": "What the compiler takes, and outputs of an emulator: no time was measured.",
    "emulated": "Outputs of an emulator: no time was measured.",
}
MILLION: Final = 1e6
NAMED: Final = 6
"""Nodes named in a sentence."""


def reading_blocks(models: Sequence[Candidate], cell: Cell, detail: Detail) -> Blocks:
    """A row for each model: its counts, or what was compiled, and how far its outputs deviate from this machine's."""
    deviations = {one.name: one.deviation for one in cell.readings if one.deviation is not None}
    verdict = _verdict(list(deviations.values()))
    if detail == Detail.SUMMARY:
        return (verdict,)
    sizes = {model.name: model.nbytes for model in models}
    rows = tuple(_row(one, deviations.get(one.name), sizes[one.name]) for one in cell.readings if one.kind == cell.kind)
    heads = (*COLUMNS.get(cell.kind, ()), "deviation", "file")
    table = Table((Column("model"), *(Column(head, "right") for head in heads)), rows, notes=cell.warnings)
    return table, *_left(cell), Paragraph(REMARKS[cell.kind]), verdict


def _verdict(deviations: Sequence[float]) -> Verdict:
    if not deviations:
        return Verdict("nothing ran: there are no outputs to compare", "caution")
    largest = max(deviations)
    return Verdict(f"outputs as on this machine: they deviate by at most {largest:.1e} of their range", "good")


def _row(reading: Reading, deviation: float | None, size: int | None) -> Row:
    file = "-" if size is None else f"{size / 2**20:.3g} MiB"
    return reading.name, *_figures(reading), "-" if deviation is None else f"{deviation:.1e}", file


def _figures(reading: Reading) -> Iterator[str]:
    """One for each of `COLUMNS`."""
    if reading.compiled is not None:
        taken = sum(reading.placed.values()) - len(reading.compiled.elsewhere)
        yield from (str(taken), str(len(reading.compiled.elsewhere)), f"{reading.compiled.context_bytes:,} bytes")
    elif reading.counts:
        moved = reading.counts["bytes_loaded"] + reading.counts["bytes_stored"]
        shown = (instructions(reading.counts), *(reading.counts[name] for name in SHOWN), moved)
        yield from (f"{count / MILLION:.4g}" for count in shown)


def _left(cell: Cell) -> Iterator[Paragraph]:
    """Which nodes the compiler leaves to others."""
    for reading in cell.readings:
        if reading.compiled is not None and reading.compiled.elsewhere:
            yield Paragraph(f"{reading.name}: {_named(reading.compiled)}")


def _named(compiled: Compiled) -> str:
    nodes = compiled.elsewhere
    some = ", ".join(f"{name or '?'} ({operator})" for name, operator in nodes[:NAMED])
    more = f" and {len(nodes) - NAMED} more" if len(nodes) > NAMED else ""
    return f"{plural(len(nodes), 'node')} left to others: {some}{more}"
