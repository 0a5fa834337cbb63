"""Decisions, norms and verifications as blocks: what the results have in common that are made of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from normfold.records import (
    Cleaning,
    Decision,
    Fusion,
    Outcome,
    Quantization,
    Role,
    SiteReport,
    Size,
    Status,
    Verification,
)
from normfold.report.blocks import Block, Blocks, Column, Detail, Names, Paragraph, Row, Table, Tone, Verdict
from normfold.report.words import (
    bytes_words,
    count_words,
    counts_sentence,
    plural,
    shape_words,
    unhealthy,
    verification_sentence,
)

LISTED: Final = 24
"""Norms of a model up to which all are named; of more, the first ones of each group."""
NAMED: Final = 3
"""Norms named in a group of a larger model."""
WIDTH: Final = 80
"""Columns that a table of groups takes at most."""
FIXED: Final = 25
"""Columns of it that the outcome, the number of norms or scales and the gaps take."""
TONES: Final[dict[Outcome, Tone]] = {
    "folded": "good",
    "part-folded": "caution",
    "lowered": "caution",
    "converted": "good",
    "quantized": "good",
    "kept": "bad",
}
STAYING: Final[frozenset[Outcome]] = frozenset({"part-folded", "lowered", "converted", "kept"})
"""Outcomes after which there still is a norm."""
LIVE: Final = 0.01
"""The share of constant variance below which a norm's statistics are those of its input."""
INERT: Final = 0.8
"""The share above which a norm computes little more than an affine map."""
PROOF_TONES: Final[dict[Status, Tone]] = {
    "equivalent": "good",
    "within-budget": "good",
    "different": "bad",
    "skipped": "caution",
    "unavailable": "caution",
}


def decision_blocks(decisions: Sequence[Decision], detail: Detail) -> Blocks:
    """What became of the norms: a row a reason, the names below; then the counts."""
    counts = Paragraph(counts_sentence(decisions))
    if detail == Detail.SUMMARY:
        return (counts,)
    return (*_grouped(decisions, {}, detail), *_fitted(decisions), counts)


def _fitted(decisions: Sequence[Decision]) -> Blocks:
    """How well norms were fitted, and how much of what they divide by is constant: then they are no normalisers."""
    found = [one.certificate for one in decisions if one.certificate is not None]
    r2 = [one.r2 for one in found if one.r2 is not None]
    shares = [one.constant_share for one in found if one.constant_share is not None]
    if not shares:
        return ()
    explained = f"R\u00b2 {_range(r2)}, " if r2 else ""
    word = "live" if max(shares) < LIVE else "inert" if min(shares) > INERT else "damped"
    return (Paragraph(f"fitted norms: {explained}constant share of the variance {_range(shares)}: {word}"),)


def _range(numbers: Sequence[float]) -> str:
    low, high = (f"{one:.2f}" for one in (min(numbers), max(numbers)))
    return low if low == high else f"{low} to {high}"


def cleaning_blocks(cleaning: Cleaning | None) -> Blocks:
    """How many nodes were taken out besides, and of which operators the most."""
    if cleaning is None or cleaning.before == cleaning.after:
        return ()
    most = sorted(cleaning.removed.items(), key=lambda item: (-item[1], item[0]))
    named = [f"{count} {operator}" for operator, count in most[:NAMED]]
    more = f" and {sum(count for _, count in most[NAMED:])} more" if len(most) > NAMED else ""
    nodes = f"{cleaning.before} to {plural(cleaning.after, 'node')}"
    return (Paragraph(f"cleaned from {nodes}: {', '.join(named)}{more} removed"),)


def fusion_blocks(fused: Sequence[Fusion] | None) -> Blocks:
    """How many operations became one each, where that was asked for."""
    if fused is None:
        return ()
    if not fused:
        return (Paragraph("fused: nothing that would be faster"),)
    operators = Counter(one.operator for one in fused)
    found = ", ".join(f"{count} {operator}" for operator, count in sorted(operators.items()))
    return (Paragraph(f"fused {plural(sum(len(one.replaced) for one in fused), 'node')} into {found}"),)


def norm_blocks(norms: Sequence[SiteReport], detail: Detail) -> Blocks:
    """The norms of a model, the health of their statistics and the decisions that would be taken."""
    would = [norm.would for norm in norms]
    ill = unhealthy(norms)
    remarks = f"; {plural(ill, 'norm')} with a remark on its statistics" if ill else ""
    counts = Paragraph(counts_sentence(would) + remarks)
    if detail == Detail.SUMMARY:
        return (counts,)
    shapes = {norm.site: shape_words(norm.shape) for norm in norms}
    return (*_grouped(would, shapes, detail), *_health(norms, detail), counts)


def quantization_blocks(found: Quantization | None, detail: Detail) -> Blocks:
    """What of a model is quantised, and how."""
    if found is None:
        return ()
    total, floating = sum(part.count for part in found.parts), sum(found.floating.values())
    left = "" if not floating else f"; {plural(floating, 'linear operation')} in floating point"
    sentence = Paragraph(f"quantised: {plural(total, 'operation')} on codes{left}")
    if detail == Detail.SUMMARY:
        return (sentence,)
    columns = (Column("quantised"), Column("form"), Column("weight"), Column("activation"), Column("count", "right"))
    rows = tuple((one.operator, one.form, one.weight or "-", one.activation, str(one.count)) for one in found.parts)
    return (Table(columns, rows), sentence)


def size_blocks(decisions: Sequence[Decision], before: Size, after: Size) -> Blocks:
    """What a model has before and after."""
    norms = [decision for decision in decisions if decision.role == "norm"]
    left = sum(decision.outcome in STAYING for decision in norms)
    rows = [
        ("norms", str(len(norms)), str(left)),
        ("nodes", str(before.nodes), str(after.nodes)),
        ("parameters", count_words(before.parameters), count_words(after.parameters)),
        ("weights", bytes_words(before.nbytes), bytes_words(after.nbytes)),
    ]
    if before.macs is not None and after.macs is not None:
        rows.append(("MACs", count_words(before.macs), count_words(after.macs)))
    return (Table((Column(), Column("before", "right"), Column("after", "right")), tuple(rows)),)


def verification_blocks(proof: Verification, detail: Detail) -> Blocks:
    """The comparison of two models; under ``FULL`` with every input it was made on."""
    verdict = Verdict(verification_sentence(proof), PROOF_TONES[proof.status])
    if detail < Detail.FULL:
        return (verdict,)
    columns = (Column("input"), Column("shape"), Column("type"), Column("made"))
    rows = tuple((probe.name, shape_words(probe.shape), probe.dtype, probe.made) for probe in proof.inputs)
    return (Table(columns, rows), verdict)


def _grouped(decisions: Sequence[Decision], shapes: Mapping[str, str], detail: Detail) -> Blocks:
    """What became of the norms; then, apart, of the scales that are none."""
    roles: list[Role] = sorted({decision.role for decision in decisions} or {"norm"})
    return tuple(
        block
        for role in roles
        for block in _table([one for one in decisions if one.role == role], role, shapes, detail)
    )


def _table(decisions: Sequence[Decision], role: Role, shapes: Mapping[str, str], detail: Detail) -> Blocks:
    """A table with a row for each group of those that share their fate and its reason, and each group's names."""
    groups: dict[tuple[str, ...], list[Decision]] = {}
    for decision in decisions:
        groups.setdefault((decision.outcome, decision.norm, *_reasons(decision)), []).append(decision)
    room = WIDTH - FIXED - max((len(decision.norm) for decision in decisions), default=0)
    table = Table(
        (Column("outcome"), Column(f"{role}s", "right"), Column(role), Column("by / why")),
        tuple(_group_row(members, room) for members in groups.values()),
        tuple(TONES[members[0].outcome] for members in groups.values()),
    )
    every = detail == Detail.FULL or len(decisions) <= LISTED
    return (table, *(_names(members, shapes, every=every) for members in groups.values()))


def _reasons(decision: Decision) -> tuple[str, ...]:
    """Why a norm stayed, in whole or in part; for one that went, the rule that took it in."""
    if decision.to is not None:
        return f"to {decision.to}", str(decision.label)
    if decision.refused_by:
        return tuple(dict.fromkeys(str(refusal.premise) for refusal in decision.refused_by))
    return decision.rules[-1:]


def _group_row(members: Sequence[Decision], room: int) -> Row:
    first, *rest = _reasons(members[0]) or ("",)
    shown = [first]
    # Two columns are kept for how many do not fit.
    while rest and len(", ".join((*shown, rest[0]))) <= room - len(" +9"):
        shown.append(rest.pop(0))
    why = ", ".join(shown) + (f" +{len(rest)}" if rest else "")
    return members[0].outcome, str(len(members)), members[0].norm, why


def _names(members: Sequence[Decision], shapes: Mapping[str, str], *, every: bool) -> Names:
    """The group's norms with what absorbed them; what its first norm says stands for all of them."""
    first, shown = members[0], members if every else members[:NAMED]
    reasons = ", ".join(_reasons(first))
    joint = "" if first.to is not None else "for " if first.refused_by else "by "
    title = f"{first.outcome} {joint}{reasons}:" if reasons else f"{first.outcome}:"
    named = tuple(_name(member, shapes) for member in shown)
    notes = tuple(_notes(first, "e.g. " if len(members) > 1 else ""))
    return Names(title, named, notes, len(members) - len(shown), TONES[first.outcome])


def _notes(decision: Decision, example: str) -> Iterator[str]:
    """What is said once for each premise that fails: where it does, and what can be done about it."""
    firsts = {refusal.premise: refusal for refusal in reversed(decision.refused_by)}
    for premise, refusal in sorted(firsts.items(), key=lambda item: decision.refused_by.index(item[1])):
        because = refusal.because.rstrip(".")
        yield f"{premise}: {example}{because}. {premise.advice}".rstrip()


def _name(decision: Decision, shapes: Mapping[str, str]) -> str:
    shape = f"  {shapes[decision.site]}" if decision.site in shapes else ""
    into = ", ".join(decision.into[:NAMED]) + (
        f" and {len(decision.into) - NAMED} more" if decision.into[NAMED:] else ""
    )
    return f"{decision.site}{shape}" + (f" -> {into}" if into else "")


def _health(norms: Sequence[SiteReport], detail: Detail) -> Iterator[Block]:
    """Each remark on the statistics, and the norms that it is about."""
    groups: dict[str, list[str]] = {}
    for norm in norms:
        for remark in norm.health:
            groups.setdefault(remark, []).append(norm.site)
    for remark, sites in groups.items():
        shown = sites if detail == Detail.FULL or len(norms) <= LISTED else sites[:NAMED]
        title = f"statistics: {remark} ({plural(len(sites), 'norm')})"
        yield Names(title, tuple(shown), more=len(sites) - len(shown), tone="caution")
