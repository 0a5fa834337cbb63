"""The reports as a notebook shows them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from normfold.records import Decision, SiteReport, Verification
from normfold.report.words import counts_sentence, decision_words, shape_words, verification_sentence


def fold_html(decisions: Sequence[Decision], verification: Verification) -> str:
    """A table of decisions under the counts and the proof."""
    rows = ((decision.outcome, decision.site, decision.norm, decision_words(decision)) for decision in decisions)
    head = paragraph(counts_sentence(decisions)) + paragraph(verification_sentence(verification))
    return head + table(("outcome", "site", "norm", "into / why"), rows)


def norms_html(norms: Sequence[SiteReport]) -> str:
    """A table of norms, their statistics and what `fold` would decide."""
    rows = (
        (
            norm.would.outcome,
            norm.site,
            norm.norm,
            shape_words(norm.shape),
            "; ".join(norm.health),
            decision_words(norm.would),
        )
        for norm in norms
    )
    head = paragraph(counts_sentence(norm.would for norm in norms))
    return head + table(("would be", "site", "norm", "shape", "statistics", "into / why"), rows)


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table, its cells escaped."""
    body = "".join(_row("td", row) for row in rows)
    return f"<table><thead>{_row('th', heads)}</thead><tbody>{body}</tbody></table>"


def _row(tag: str, cells: Iterable[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"


def paragraph(text: str) -> str:
    """A paragraph, escaped."""
    return f"<p>{escape(text)}</p>"
