"""The reports for people: a line a norm while that stays short, then a line a reason."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from normfold.records import Decision, SiteReport, Verification
from normfold.report.words import (
    counts_sentence,
    decision_words,
    plural,
    printable,
    shape_words,
    unhealthy,
    verification_sentence,
)

if TYPE_CHECKING:
    from rich.console import Console

LISTED: Final = 24
"""Norms listed one by one; more are grouped by what became of them and why."""
NAMED: Final = 3
"""Sites named in a group."""
STYLES: Final = {"folded": "green", "part-folded": "yellow", "lowered": "yellow", "kept": "red"}
PROOF_STYLES: Final = {"equivalent": "green", "different": "bold red", "skipped": "yellow", "unavailable": "yellow"}

Row = tuple[str, ...]


def show_fold(
    console: Console, title: str, decisions: Sequence[Decision], verification: Verification, *, detail: int = 0
) -> None:
    """Print what became of every norm, the counts and the proof."""
    if detail >= 0:
        line(console, title)
        show_decisions(console, decisions, detail=detail)
    line(console, counts_sentence(decisions))
    line(console, verification_sentence(verification), PROOF_STYLES[verification.status])


def show_decisions(console: Console, decisions: Sequence[Decision], *, detail: int = 0) -> None:
    """Print one row a norm, or a row a reason where there are many."""
    one_by_one = detail > 0 or len(decisions) <= LISTED
    rows = map(_decision_row, decisions) if one_by_one else _grouped(decisions)
    table(console, list(rows))


def show_norms(console: Console, title: str, norms: Sequence[SiteReport], *, detail: int = 0) -> None:
    """Print the norms of a model, the health of their statistics and what `fold` would decide."""
    would = [norm.would for norm in norms]
    if detail >= 0:
        line(console, title)
        if detail > 0 or len(norms) <= LISTED:
            table(console, list(chain.from_iterable(map(_norm_rows, norms))))
        else:
            show_decisions(console, would)
            table(console, list(_health_groups(norms)))
    ill = unhealthy(norms)
    line(console, counts_sentence(would) + (f"; {plural(ill, 'norm')} with a remark on its statistics" if ill else ""))


def show_verification(console: Console, title: str, verification: Verification, *, detail: int = 0) -> None:
    """Print the comparison of two models, and under --verbose every input."""
    if detail >= 0:
        line(console, title)
    if detail > 0:
        table(
            console, [(probe.name, shape_words(probe.shape), probe.dtype, probe.made) for probe in verification.inputs]
        )
    line(console, verification_sentence(verification), PROOF_STYLES[verification.status])


def show_demo(
    console: Console,
    decisions: Sequence[Decision],
    verification: Verification,
    accuracy: Mapping[str, Any],
    speed: Mapping[str, Any],
    *,
    detail: int = 0,
) -> None:
    """Print the fold of the shipped network, then its answers and its speed before and after."""
    show_fold(
        console, "digits.onnx, a small network trained on handwritten digits", decisions, verification, detail=detail
    )
    line(
        console,
        f"accuracy: {accuracy['before']:.2%} before, {accuracy['after']:.2%} after; "
        f"{accuracy['changed_answers']} of {accuracy['pictures']} answers changed",
    )
    low, high = speed["quartiles"]
    line(
        console,
        f"speed: {speed['ratio']:.2f}x of the source (quartiles {low:.2f} to {high:.2f}; batch 1, one thread, "
        f"{speed['rounds']} rounds in turns). ONNX Runtime folds norms behind a convolution by itself when it loads "
        "a model, so only the others can show here.",
    )


def show_pairs(console: Console, pairs: Mapping[str, Any]) -> None:
    """Print names and values in two columns."""
    table(console, [(name, str(value)) for name, value in pairs.items()])


def _decision_row(decision: Decision) -> Row:
    return decision.outcome, decision.site, decision.norm, decision_words(decision)


def _norm_rows(norm: SiteReport) -> Iterable[Row]:
    yield f"would be {norm.would.outcome}", norm.site, norm.norm, shape_words(norm.shape), decision_words(norm.would)
    for remark in norm.health:
        yield "", "", "", "", remark


def _grouped(decisions: Iterable[Decision]) -> Iterable[Row]:
    groups: dict[tuple[str, ...], list[Decision]] = {}
    for decision in decisions:
        premises = (refusal.premise for refusal in decision.refused_by)
        groups.setdefault((decision.outcome, decision.norm, *decision.rules, *premises), []).append(decision)
    for members in groups.values():
        first = members[0]
        why = decision_words(first) if first.refused_by else ", ".join(first.rules)
        yield first.outcome, str(len(members)), first.norm, f"{why}  [{_some(member.site for member in members)}]"


def _health_groups(norms: Iterable[SiteReport]) -> Iterable[Row]:
    groups: dict[str, list[str]] = {}
    for norm in norms:
        for remark in norm.health:
            groups.setdefault(remark, []).append(norm.site)
    for remark, sites in groups.items():
        yield "remark", str(len(sites)), f"{remark}  [{_some(sites)}]"


def _some(sites: Iterable[str]) -> str:
    listed = list(sites)
    more = f" and {len(listed) - NAMED} more" if len(listed) > NAMED else ""
    return ", ".join(listed[:NAMED]) + more


def line(console: Console, text: str, style: str | None = None) -> None:
    """Print one line, escaped."""
    console.print(printable(text), style=style)


def table(console: Console, rows: Sequence[Row]) -> None:
    """Align rows; the first cell is coloured by outcome.

    A terminal gets wrapped cells, a pipe one line a row without padding at its end.
    """
    if not rows:
        return
    clean = [tuple(printable(cell) for cell in row) for row in rows]
    if not console.is_terminal:
        widths = [max(map(len, column)) for column in zip(*clean, strict=True)]
        for row in clean:
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            console.print(f"  {'  '.join(cells)}".rstrip())
        return
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for row in clean:
        grid.add_row(Text(row[0], style=STYLES.get(row[0].rpartition(" ")[2], "")), *map(Text, row[1:]))
    console.print(grid)
