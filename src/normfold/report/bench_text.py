"""The reports of `bench` and `compare` for people: one table, the verdict, the noise floor."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from normfold.errors import NormfoldError
from normfold.measure.candidate import Candidate, Conditions
from normfold.measure.figures import Cell, Details, Figure
from normfold.measure.statistics import Comparison, Interval
from normfold.measure.stored import StoredComparison
from normfold.report.text import Row, line, table
from normfold.report.words import plural

if TYPE_CHECKING:
    from rich.console import Console

NODES: Final = 12
"""Rows of a table of nodes."""
HEAD: Final = ("model", "ms (95 % interval)", "p50", "p90", "p99", "per s", "load", "first run", "memory", "file")
"""Columns; times in milliseconds."""
STYLES: Final = {"faster": "green", "slower": "bold red", "equivalent": "green", "inconclusive": "yellow"}


def show_bench(
    console: Console, models: Sequence[Candidate], cells: Iterable[Cell], *, detail: int = 0, nodes: bool = False
) -> None:
    """Print a table a cell, then what the figures say of each other."""
    sizes = {model.name: model.nbytes for model in models}
    for cell in cells:
        line(console, title(models[0].profile.provider, cell))
        if cell.refused is not None:
            line(console, f"  no figures [{cell.refused.code}]: {cell.refused.message}", "bold red")
            continue
        if detail >= 0:
            table(console, [HEAD, *(figure_row(figure, cell, sizes[figure.name]) for figure in cell.figures)])
        elif not cell.comparisons:
            line(console, f"  {cell.figures[0].name} takes {_interval(cell.figures[0].latency)} ms")
        for name, comparison in cell.comparisons.items():
            line(console, f"  {verdict_sentence(cell.figures[0].name, name, comparison)}", STYLES[comparison.verdict])
        if detail >= 0:
            _show_surroundings(console, cell)
        for figure in cell.figures if nodes else ():
            _show_nodes(console, figure)


def show_compare(
    console: Console, comparisons: Sequence[StoredComparison], refused: NormfoldError | None, *, remark: bool
) -> None:
    """Print one line a comparison; ``remark`` on figures of different moments."""
    if refused is not None:
        line(console, f"no figures [{refused.code}]: {refused.message}", "bold red")
    for one in comparisons:
        where = f"{_conditions(one.conditions)}: " if len(comparisons) > 1 else ""
        sentence = verdict_sentence(one.reference, one.other, one.comparison)
        line(console, where + sentence, STYLES[one.comparison.verdict])
    if remark:
        line(console, "Measured at different moments: what the machine did in between is not in the interval.")


def verdict_sentence(reference: str, other: str, comparison: Comparison) -> str:
    """``b takes 0.652x the time of a (0.648 to 0.657): faster``."""
    ratio = comparison.ratio
    said = f"{other} takes {ratio.value:.4g}x the time of {reference} ({ratio.low:.4g} to {ratio.high:.4g})"
    return f"{said}: {comparison.verdict}{_remark(comparison)}"


def _remark(comparison: Comparison) -> str:
    if comparison.verdict in ("faster", "slower"):
        return ""
    if comparison.called:
        return ", though a difference was found"
    return ", what was seen is below the noise floor" if comparison.found else ", no difference found"


def title(provider: str, cell: Cell) -> str:
    """What the figures of ``cell`` hold for, and what they were made of."""
    rounds = sorted(len(sample.turns) for sample in cell.samples)
    span = "" if not rounds else str(rounds[0]) if rounds[0] == rounds[-1] else f"{rounds[0]} to {rounds[-1]}"
    effort = f"; {span} rounds in each of {len(rounds)} fresh processes" if rounds else ""
    return f"{provider}, {_conditions(cell.conditions)}{effort}"


def _conditions(conditions: Conditions) -> str:
    batch = "" if conditions.batch is None else f", batch {conditions.batch}"
    return f"{conditions.use}, {plural(conditions.threads, 'thread')}{batch}"


def figure_row(figure: Figure, cell: Cell, size: int | None) -> Row:
    """One candidate's figures under `HEAD`; ``size`` of its files in bytes."""
    found = {quantile.q: quantile.value for quantile in figure.quantiles}
    details = figure.details
    return (
        figure.name,
        _interval(figure.latency),
        *(_milliseconds(found.get(q)) for q in (0.5, 0.9, 0.99)),
        f"{(cell.conditions.batch or 1) * 1e9 / figure.latency.value:.4g}",
        _milliseconds(figure.load_ns),
        _milliseconds(figure.first_run_ns),
        "-" if details is None else _mebibytes(details.peak_rss),
        _mebibytes(size),
    )


def _interval(nanoseconds: Interval) -> str:
    value, low, high = (part / 1e6 for part in (nanoseconds.value, nanoseconds.low, nanoseconds.high))
    return f"{value:.4g} ({low:.4g} to {high:.4g})"


def _milliseconds(nanoseconds: float | None) -> str:
    return "-" if nanoseconds is None else f"{nanoseconds / 1e6:.3g}"


def _mebibytes(size: int | None) -> str:
    return "-" if size is None else f"{size / 2**20:.3g} MiB"


def _show_surroundings(console: Console, cell: Cell) -> None:
    """What the figures are worth, and what they are of."""
    reference = cell.figures[0]
    if cell.control is not None:
        low, high = cell.control.low, cell.control.high
        floor = f"{max(abs(low - 1), abs(high - 1)):.2%}"
        line(console, f"  noise floor {floor}: a copy of {reference.name} reads as {low:.4g} to {high:.4g} of it")
    energies = [f"{one.name} {one.microjoules / 1e3:.3g} mJ" for one in cell.figures if one.microjoules is not None]
    line(console, f"  energy of a run: {', '.join(energies) or f'unknown, {reference.no_energy}'}")
    line(console, f"  importing ONNX Runtime took {_milliseconds(reference.import_ns)} ms")
    outliers = sum(figure.outliers for figure in cell.figures)
    for warning in (*cell.warnings, *([f"{plural(outliers, 'block')} beyond the outer fence"] if outliers else [])):
        line(console, f"  note: {warning}")


def _show_nodes(console: Console, figure: Figure) -> None:
    if figure.details is None:
        return
    line(console, f"  nodes of {figure.name}, microseconds a run")
    table(console, _node_rows(figure.details))


def _node_rows(details: Details) -> list[Row]:
    total = sum(node[4] for node in details.nodes) or 1.0
    listed: list[Row] = [
        (f"{time:.3g}", f"{time / total:.1%}", operator, name, provider.removesuffix("ExecutionProvider"))
        for name, operator, provider, _runs, time in details.nodes[:NODES]
    ]
    rest = details.nodes[NODES:]
    if rest:
        left = sum(node[4] for node in rest)
        listed.append((f"{left:.3g}", f"{left / total:.1%}", f"{len(rest)} more", "", ""))
    return listed
