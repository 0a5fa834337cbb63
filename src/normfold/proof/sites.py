"""What the deviations at single norms say: how large each is, and where a result first diverges from its source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from normfold.proof.deviation import Deviation
from normfold.records import Pair, Verification
from normfold.runtime import Failed

DIVERGENCE: Final = 10.0
"""A site diverges from its source where its deviation exceeds that of every earlier one by this factor."""


def with_sites(verification: Verification, located: list[tuple[Pair, Deviation]] | Failed) -> Verification:
    """``verification`` with the deviation at each site, and where the two are different, the first divergence."""
    if isinstance(located, Failed):
        because = "; ".join(filter(None, [verification.because, f"inner values cannot be compared: {located}"]))
        return replace(verification, because=because)
    errors: dict[str, float] = {}
    for pair, deviation in located:
        for site in pair.sites:
            errors[site] = max(errors.get(site, 0.0), deviation.max_rel or 0.0)
    divergence = _first_divergence(located) if verification.status == "different" else None
    return replace(verification, errors=errors, first_divergence=divergence)


def _first_divergence(located: Sequence[tuple[Pair, Deviation]]) -> str | None:
    """The first site beyond its tolerance that stands out from all before it; else the first beyond it."""
    before, fallback = 0.0, None
    for pair, deviation in located:
        if deviation.excess > 1.0 and pair.sites:
            if deviation.excess > DIVERGENCE * before:
                return pair.sites[0]
            fallback = fallback or pair.sites[0]
        before = max(before, deviation.excess)
    return fallback
