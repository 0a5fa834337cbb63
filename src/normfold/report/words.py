"""Small pieces of wording that every report shares."""

from __future__ import annotations

import math
from collections.abc import Iterable

from normfold.records import Decision, SiteReport, Verification, counts


def printable(text: str) -> str:
    """Escape what a terminal would obey, and line breaks: names in a model file are somebody else's bytes."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def number(value: float | None) -> str:
    """Two digits of a deviation; ``-`` where nothing was measured."""
    if value is None:
        return "-"
    return f"{value:.1e}" if value and math.isfinite(value) else f"{value:g}"


def count_words(count: int) -> str:
    """``12``, ``25.6 k``, ``4.11 G``: three digits and a power of a thousand."""
    for power, unit in ((3, " G"), (2, " M"), (1, " k")):
        if count >= 1000**power:
            return f"{count / 1000**power:#.3g}{unit}".replace(". ", " ")
    return str(count)


def bytes_words(count: int) -> str:
    """``97.5 MiB``: three digits and a power of 1,024."""
    for power, unit in ((3, "GiB"), (2, "MiB"), (1, "KiB")):
        if count >= 1024**power:
            return f"{count / 1024**power:#.3g} {unit}".replace(". ", " ")
    return f"{count} B"


def shape_words(shape: tuple[int | str | None, ...] | None) -> str:
    """``1x64x?x?``; ``?`` for an unknown size or rank."""
    if shape is None:
        return "?"
    return "x".join("?" if size is None else str(size) for size in shape) or "scalar"


def counts_sentence(decisions: Iterable[Decision]) -> str:
    """``19 norms: 17 folded, 2 kept``, and ``; 3 scales folded`` where other scales went."""
    tally = counts(decisions)
    total, scales = tally.pop("norms"), tally.pop("scales")
    parts = [f"{count} {outcome.replace('_', '-')}" for outcome, count in tally.items() if count]
    others = f"; {plural(scales, 'scale')} folded" if scales else ""
    return f"{plural(total, 'norm')}{': ' if parts else ''}{', '.join(parts)}{others}"


def plural(count: int, noun: str) -> str:
    """``1 norm``, ``2 norms``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def verification_sentence(proof: Verification) -> str:
    """One line on the comparison of the result with its source."""
    because = f" ({proof.because})" if proof.because else ""
    if proof.status in ("skipped", "unavailable"):
        return f"verification: {proof.status}{because}"
    measured = f"largest deviation {number(proof.max_rel)} of the output's range, {number(proof.max_abs)} absolute"
    allowed = f"rtol {number(proof.rtol)}" if proof.budget is None else f"budget {number(proof.budget)}"
    runs = f"{allowed}, {plural(len(proof.inputs), 'test input')}"
    divergence = f"; first divergence at {proof.first_divergence}" if proof.first_divergence else ""
    return f"verification: {proof.status}: {measured} ({runs}){divergence}{because}"


def unhealthy(norms: Iterable[SiteReport]) -> int:
    """How many norms have something to say about their statistics."""
    return sum(bool(norm.health) for norm in norms)
