"""Decisions, norms and verifications as blocks: what the results have in common that are made of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from normfold.records import Decision, Outcome, SiteReport, Status, Verification
from normfold.report.blocks import Blocks, Column, Detail, Paragraph, Row, Table, Tone, Verdict
from normfold.report.words import (
    counts_sentence,
    decision_words,
    plural,
    shape_words,
    unhealthy,
    verification_sentence,
)

LISTED: Final = 24
"""Norms listed one by one; more are grouped by what became of them and why."""
NAMED: Final = 3
"""Sites named in a group."""
TONES: Final[dict[Outcome, Tone]] = {
    "folded": "good",
    "part-folded": "caution",
    "lowered": "caution",
    "converted": "good",
    "quantized": "good",
    "kept": "bad",
}
PROOF_TONES: Final[dict[Status, Tone]] = {
    "equivalent": "good",
    "within-budget": "good",
    "different": "bad",
    "skipped": "caution",
    "unavailable": "caution",
}


def decision_blocks(decisions: Sequence[Decision], detail: Detail) -> Blocks:
    """What became of every norm: a row a norm, or a row a reason where there are many; then the counts."""
    counts = Paragraph(counts_sentence(decisions))
    if detail == Detail.SUMMARY:
        return (counts,)
    one_by_one = detail == Detail.FULL or len(decisions) <= LISTED
    return (_listed(decisions) if one_by_one else _grouped(decisions), counts)


def norm_blocks(norms: Sequence[SiteReport], detail: Detail) -> Blocks:
    """The norms of a model, the health of their statistics and the decisions that would be taken."""
    would = [norm.would for norm in norms]
    ill = unhealthy(norms)
    remarks = f"; {plural(ill, 'norm')} with a remark on its statistics" if ill else ""
    counts = Paragraph(counts_sentence(would) + remarks)
    if detail == Detail.SUMMARY:
        return (counts,)
    if detail == Detail.FULL or len(norms) <= LISTED:
        return (_norms(norms), counts)
    return (_grouped(would), _health(norms), counts)


def verification_blocks(proof: Verification, detail: Detail) -> Blocks:
    """The comparison of two models; under ``FULL`` with every input it was made on."""
    verdict = Verdict(verification_sentence(proof), PROOF_TONES[proof.status])
    if detail < Detail.FULL:
        return (verdict,)
    columns = (Column("input"), Column("shape"), Column("type"), Column("made"))
    rows = tuple((probe.name, shape_words(probe.shape), probe.dtype, probe.made) for probe in proof.inputs)
    return (Table(columns, rows), verdict)


def _listed(decisions: Iterable[Decision]) -> Table:
    listed = tuple(decisions)
    return Table(
        (Column("outcome"), Column("site"), Column("norm"), Column("into / why")),
        tuple((one.outcome, one.site, one.norm, decision_words(one)) for one in listed),
        tuple(TONES[one.outcome] for one in listed),
    )


def _grouped(decisions: Iterable[Decision]) -> Table:
    groups: dict[tuple[str, ...], list[Decision]] = {}
    for decision in decisions:
        premises = (refusal.premise for refusal in decision.refused_by)
        groups.setdefault((decision.outcome, decision.norm, *decision.rules, *premises), []).append(decision)
    return Table(
        (Column("outcome"), Column("norms", "right"), Column("norm"), Column("by / why")),
        tuple(map(_group_row, groups.values())),
        tuple(TONES[members[0].outcome] for members in groups.values()),
    )


def _group_row(members: Sequence[Decision]) -> Row:
    first = members[0]
    why = decision_words(first) if first.refused_by else ", ".join(first.rules)
    sites = _some([member.site for member in members])
    return first.outcome, str(len(members)), first.norm, f"{why}  [{sites}]"


def _norms(norms: Sequence[SiteReport]) -> Table:
    heads = ["would be", "site", "norm", "shape", "into / why", "statistics"]
    rows: list[Row] = [
        (
            norm.would.outcome,
            norm.site,
            norm.norm,
            shape_words(norm.shape),
            decision_words(norm.would),
            "; ".join(norm.health),
        )
        for norm in norms
    ]
    if not unhealthy(norms):
        heads, rows = heads[:-1], [row[:-1] for row in rows]
    return Table(tuple(map(Column, heads)), tuple(rows), tuple(TONES[norm.would.outcome] for norm in norms))


def _health(norms: Iterable[SiteReport]) -> Table:
    groups: dict[str, list[str]] = {}
    for norm in norms:
        for remark in norm.health:
            groups.setdefault(remark, []).append(norm.site)
    rows = tuple((str(len(sites)), f"{remark}  [{_some(sites)}]") for remark, sites in groups.items())
    return Table((Column("norms", "right"), Column("statistics")), rows)


def _some(sites: Sequence[str]) -> str:
    more = f" and {len(sites) - NAMED} more" if len(sites) > NAMED else ""
    return ", ".join(sites[:NAMED]) + more
