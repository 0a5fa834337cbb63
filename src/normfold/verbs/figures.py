"""Figures as blocks: what the results have in common that are made of measured times."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

from normfold.errors import NormfoldError
from normfold.measure.candidate import Candidate, Conditions
from normfold.measure.deadline import Kept
from normfold.measure.figures import Cell, Details, Figure
from normfold.measure.statistics import THRESHOLD, Comparison
from normfold.measure.statistics import Interval as Estimate
from normfold.measure.statistics import Verdict as Judgement
from normfold.measure.stored import StoredComparison
from normfold.report.blocks import (
    Block,
    Blocks,
    Chart,
    ChartRow,
    Column,
    Detail,
    Heading,
    Interval,
    Paragraph,
    Row,
    Table,
    Tone,
    Verdict,
)
from normfold.report.words import plural
from normfold.runtime.targets import LOCAL
from normfold.verbs.readings import reading_blocks

NODES: Final = 12
"""Rows of a table of nodes."""
COLUMNS: Final = (
    Column("model"),
    Column("ms (95 % interval)"),
    *(Column(head, "right") for head in ("p50", "p90", "p99", "per s", "load", "first run", "memory", "file")),
)
"""Times in milliseconds."""
DEVIATION: Final = Column("deviation", "right")
"""From what the first model gives on this machine, relative to the range of the outputs."""
DEADLINES: Final[dict[Kept, Tone]] = {"met": "good", "missed": "bad", "inconclusive": "caution"}
TONES: Final[dict[Judgement, Tone]] = {
    "faster": "good",
    "slower": "bad",
    "fewer": "good",
    "more": "bad",
    "equivalent": "good",
    "inconclusive": "caution",
}


EDGE_COLUMNS: Final = (COLUMNS[0], COLUMNS[8], *COLUMNS[1:8], *COLUMNS[9:])
"""Memory first: on a small machine it decides whether there is anything else to measure."""


def cell_blocks(models: Sequence[Candidate], cell: Cell, detail: Detail) -> Blocks:
    """Figures under one set of conditions, then what they say of each other."""
    heading = Heading(_title(", ".join(dict.fromkeys(one.profile.provider for one in models)), cell))
    if cell.refused is not None:
        return heading, refusal(cell.refused)
    reference = (cell.figures or cell.readings)[0]
    verdicts = tuple(
        Verdict(comparison_sentence(reference.name, name, one), TONES[one.verdict])
        for name, one in cell.comparisons.items()
    )
    if not isinstance(reference, Figure):
        return heading, *reading_blocks(models, cell, detail), *verdicts
    verdicts += tuple(_deadline_verdicts(cell))
    memory = tuple(Paragraph(words) for words in (_memory_sentence(cell),) if words)
    if detail == Detail.SUMMARY:
        return heading, *memory, *(verdicts or [milliseconds(reference.latency, f"{reference.name} takes", " ms")])
    chart = (_chart(cell),) if cell.comparisons else ()
    return heading, _table(models, cell), *memory, *chart, *verdicts, *_circumstances(cell)


def comparison_blocks(comparisons: Sequence[StoredComparison], refused: NormfoldError | None) -> Blocks:
    """One verdict a comparison, or why there are none."""
    several = len(comparisons) > 1
    verdicts = (
        Verdict(
            (f"{_conditions(one.conditions)}: " if several else "")
            + comparison_sentence(one.reference, one.other, one.comparison),
            TONES[one.comparison.verdict],
        )
        for one in comparisons
    )
    return (*(() if refused is None else (refusal(refused),)), *verdicts)


def comparison_sentence(reference: str, other: str, comparison: Comparison) -> str:
    """``b takes 0.652x the time of a (0.648 to 0.657): faster``, or the same of instructions: ``fewer``."""
    ratio, what = comparison.ratio, "executes {}x the instructions" if comparison.counted else "takes {}x the time"
    said = f"{other} {what.format(f'{ratio.value:.4g}')} of {reference} ({ratio.low:.4g} to {ratio.high:.4g})"
    return f"{said}: {comparison.verdict}{_remark(comparison)}"


def node_blocks(figure: Figure) -> Blocks:
    """The nodes of a model that take longest."""
    if figure.details is None or not figure.details.nodes:
        return ()
    columns = (Column("µs a run", "right"), Column("share", "right"), Column("operator"), Column("node"), Column("on"))
    return Heading(f"nodes of {figure.name}"), Table(columns, tuple(_node_rows(figure.details)))


def refusal(error: NormfoldError) -> Verdict:
    """Why there are no figures."""
    return Verdict(f"no figures [{error.code}]: {error.message}", "bad")


def milliseconds(nanoseconds: Estimate, label: str = "", unit: str = "") -> Interval:
    """A time as a report shows it."""
    return Interval(nanoseconds.value / 1e6, nanoseconds.low / 1e6, nanoseconds.high / 1e6, label, unit)


def ratio_interval(ratio: Estimate, label: str = "") -> Interval:
    """A ratio of times as a report shows it."""
    return Interval(ratio.value, ratio.low, ratio.high, label, "x")


def _title(provider: str, cell: Cell) -> str:
    """What the figures of ``cell`` hold for, and what they were made of."""
    if cell.emulations:
        return f"{provider}, {_conditions(cell.conditions)}; {cell.kind}"
    rounds = sorted(len(sample.turns) for sample in cell.samples)
    span = "" if not rounds else str(rounds[0]) if rounds[0] == rounds[-1] else f"{rounds[0]} to {rounds[-1]}"
    effort = f"; {span} rounds in each of {len(rounds)} fresh processes" if rounds else ""
    return f"{provider}, {_conditions(cell.conditions)}{effort}"


def _conditions(conditions: Conditions) -> str:
    batch = "" if conditions.batch is None else f", batch {conditions.batch}"
    where = "" if conditions.target == LOCAL.name else f"{conditions.target}, "
    return f"{where}{conditions.use}, {plural(conditions.threads, 'thread')}{batch}"


def _table(models: Sequence[Candidate], cell: Cell) -> Table:
    """A row for each model; with the deviation from this machine's outputs on another target."""
    sizes = {model.name: model.nbytes for model in models}
    away = cell.conditions.target != LOCAL.name
    wanted = EDGE_COLUMNS if cell.conditions.use == "edge" else COLUMNS
    rows = (dict(zip(COLUMNS, _figure_row(one, cell, sizes[one.name]), strict=True)) for one in cell.figures)
    return Table(
        (*wanted, *((DEVIATION,) if away else ())),
        tuple(
            (*(row[column] for column in wanted), *((f"{one.deviation:.1e}",) if away else ()))
            for row, one in zip(rows, cell.figures, strict=True)
        ),
        notes=tuple(_notes(cell)),
    )


def _memory_sentence(cell: Cell) -> str:
    """Peak memory of each model's process, the main figure on the edge; empty elsewhere, and where it is unknown."""
    if cell.conditions.use != "edge":
        return ""
    found = []
    for figure in cell.figures:
        details = figure.details
        if details is not None and details.peak_rss is not None and details.rss_before is not None:
            own = _in_mebibytes(details.peak_rss - details.rss_before)
            found.append(f"{figure.name} {_in_mebibytes(details.peak_rss)}, {own} of it since the model is there")
    return f"peak memory: {'; '.join(found)}" if found else ""


def _deadline_verdicts(cell: Cell) -> Iterator[Verdict]:
    """For each model the share of runs that miss the deadline, and the quantiles that the runs allow."""
    for figure in cell.figures:
        if figure.punctuality is not None:
            said = ", ".join(f"p{100 * one.q:g} {_in_milliseconds(one.value)}" for one in figure.quantiles)
            words = figure.punctuality.sentence(figure.name)
            yield Verdict(f"{words} ({said} ms)" if said else words, DEADLINES[figure.punctuality.verdict])


def _figure_row(figure: Figure, cell: Cell, size: int | None) -> Row:
    """One model's figures under `COLUMNS`; ``size`` of its files in bytes."""
    found = {quantile.q: quantile.value for quantile in figure.quantiles}
    details = figure.details
    return (
        figure.name,
        milliseconds(figure.latency),
        *(_in_milliseconds(found.get(q)) for q in (0.5, 0.9, 0.99)),
        f"{(cell.conditions.batch or 1) * 1e9 / figure.latency.value:.4g}",
        _in_milliseconds(figure.load_ns),
        _in_milliseconds(figure.first_run_ns),
        _in_mebibytes(None if details is None else details.peak_rss),
        _in_mebibytes(size),
    )


def _in_milliseconds(nanoseconds: float | None) -> str:
    return "-" if nanoseconds is None else f"{nanoseconds / 1e6:.3g}"


def _in_mebibytes(size: int | None) -> str:
    return "-" if size is None else f"{size / 2**20:.3g} MiB"


def _chart(cell: Cell) -> Chart:
    """Each ratio with its interval, and what each process found."""
    rows = (
        ChartRow(ratio_interval(one.ratio, name), tuple(math.exp(sample.log_ratio(name)) for sample in cell.samples))
        for name, one in cell.comparisons.items()
    )
    return Chart(tuple(rows), cell.figures[0].name, THRESHOLD)


def _remark(comparison: Comparison) -> str:
    if comparison.verdict in ("faster", "slower", "fewer", "more"):
        return ""
    if comparison.called:
        return ", though a difference was found"
    return ", the difference seen is below the noise floor" if comparison.found else ", no difference found"


def _notes(cell: Cell) -> Iterator[str]:
    yield from cell.warnings
    if outliers := sum(figure.outliers for figure in cell.figures):
        yield f"{plural(outliers, 'block')} beyond the outer fence"


def _circumstances(cell: Cell) -> Iterator[Block]:
    """How far the figures can be trusted, and what else they cost."""
    reference = cell.figures[0]
    if cell.control is not None:
        low, high = cell.control.low, cell.control.high
        floor = f"{max(abs(low - 1), abs(high - 1)):.2%}"
        yield Paragraph(f"noise floor {floor}: a copy of {reference.name} reads as {low:.4g} to {high:.4g} of it")
    energies = [f"{one.name} {one.microjoules / 1e3:.3g} mJ" for one in cell.figures if one.microjoules is not None]
    yield Paragraph(f"energy of a run: {', '.join(energies) or f'unknown, {reference.no_energy}'}")
    size = _in_mebibytes(cell.samples[0].runtime_bytes)
    yield Paragraph(f"importing ONNX Runtime ({size}) took {_in_milliseconds(reference.import_ns)} ms")


def _node_rows(details: Details) -> Iterator[Row]:
    total = sum(node[4] for node in details.nodes) or 1.0
    for name, operator, provider, _runs, time in details.nodes[:NODES]:
        yield f"{time:.3g}", f"{time / total:.1%}", operator, name, provider.removesuffix("ExecutionProvider")
    if rest := details.nodes[NODES:]:
        left = sum(node[4] for node in rest)
        yield f"{left:.3g}", f"{left / total:.1%}", f"{len(rest)} more", "", ""
