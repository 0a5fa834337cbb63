"""The one loop of proof: run a pass, compare its result with the source, drop what is at fault, and run it again.

What a pass works on is a `Source`: an ONNX model, a module tree, a program. Each says how its pass is run on a fresh
copy, and how the result is compared with it, by a `normfold.proof.runner.Runner`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Generic, Protocol, TypeVar

from normfold.core.premises import VERIFICATION_FAILED
from normfold.errors import NormfoldError
from normfold.passes.rewritten import Rewritten
from normfold.records import Cleaning, Decision, Fusion, Refusal, Size, Verification

T = TypeVar("T")

IN_VAIN: Final = 8
"""Sites dropped one after the other without the result coming any closer to its source: then none was at fault."""
UNCHANGED: Final = Verification("equivalent", because="nothing was changed", max_abs=0.0, max_rel=0.0)
"""A model that nothing was done to needs no proof."""
HOLDS: Final = frozenset({"equivalent", "within-budget"})
"""Verdicts with which a result is handed over."""
BUDGET: Final = 1e-3
"""Deviation, of an output's range, that is allowed where norms compute the same under a condition only."""
CLEANING: Final = ""
"""What is dropped, beside the names of sites, where nothing is to be cleaned."""
FUSING: Final = "\0"
"""What is dropped where nothing is to be fused; no site can have the name."""
SUSPECT: Final = Refusal(VERIFICATION_FAILED, "left out to find the site at fault")


class UnprovenError(NormfoldError):
    """Nothing here can run the result or its source, so it is not handed over.

    ``decisions`` and ``verification`` say what was tried.
    """

    exit_code = 3

    def __init__(
        self, code: str, message: str, hint: str, decisions: tuple[Decision, ...], verification: Verification
    ) -> None:
        super().__init__(code, message, hint)
        self.decisions = decisions
        self.verification = verification


class DiffersError(UnprovenError):
    """The result differs from its source, and leaving out single sites does not cure it."""

    exit_code = 1


Refused = Callable[[tuple[Decision, ...], Verification], UnprovenError]


class Source(Protocol[T]):
    """A model that a pass rewrites."""

    def rewritten(self, dropped: Mapping[str, Refusal]) -> Rewritten[T]:
        """What the pass makes of a fresh copy, but for the sites that are ``dropped``."""
        ...

    def compared(self, attempt: Rewritten[T]) -> Verification:
        """The comparison of ``attempt``, the latest that was made, with the source."""
        ...


@dataclass(frozen=True, slots=True)
class Proven(Generic[T]):
    """A result that is equivalent to its source, or was not to be compared."""

    model: T
    decisions: tuple[Decision, ...]
    verification: Verification
    changed: bool
    sizes: tuple[Size, Size] | None = None
    cleaning: Cleaning | None = None
    fused: tuple[Fusion, ...] | None = None


def unproven(source: Source[T], because: str, dropped: Mapping[str, Refusal] | None = None) -> Proven[T]:
    """The result of the pass without what is ``dropped``, and without a comparison."""
    attempt = source.rewritten(dropped or {})
    return Proven(
        attempt.model,
        attempt.decisions,
        Verification("skipped", because=because),
        attempt.changed,
        attempt.sizes,
        attempt.cleaning,
        attempt.fused,
    )


def prove(source: Source[T], refusal: Refused | None = None) -> Proven[T]:
    """The result of the pass, equivalent to ``source``; sites at fault are dropped until it is.

    ``refusal`` makes the error where that cannot be reached; by default, `refused`.

    Raises:
        DiffersError: the result differs, and no site is found that is at fault.
        UnprovenError: the two cannot be compared.
    """
    search = _Search(source)
    while True:
        attempt = source.rewritten(search.dropped)
        proof = search.proof_of(attempt)
        if proof.status in HOLDS:
            decisions = tuple(replace(one, error=proof.errors.get(one.site)) for one in attempt.decisions)
            return Proven(
                attempt.model, decisions, proof, attempt.changed, attempt.sizes, attempt.cleaning, attempt.fused
            )
        site = search.at_fault(attempt, proof)
        if site is None:
            raise (refusal or refused)(attempt.decisions, proof)
        because = f"With it folded, the model differs from its source: {proof.because}."
        search.dropped[site] = Refusal(VERIFICATION_FAILED, because)


def refused(decisions: tuple[Decision, ...], proof: Verification) -> UnprovenError:
    """The error that a result is not handed over."""
    because = f": {proof.because}" if proof.because else "."
    if proof.status == "different":
        message = f"The folded model differs from its source, so it is not handed over{because}"
        return DiffersError("result-differs", message, "Find the site at fault with --skip.", decisions, proof)
    message = f"The folded model cannot be compared with its source, so it is not handed over{because}"
    hint = "Fold without the comparison: --no-verify, or verify=False."
    return UnprovenError("unverified", message, hint, decisions, proof)


@dataclass
class _Search(Generic[T]):
    """The search for sites at fault: those dropped so far, and whether that helps."""

    source: Source[T]
    dropped: dict[str, Refusal] = field(default_factory=dict)
    least: float = math.inf
    in_vain: int = 0

    def proof_of(self, attempt: Rewritten[T]) -> Verification:
        return _within(attempt, self.source.compared(attempt)) if attempt.changed else UNCHANGED

    def at_fault(self, attempt: Rewritten[T], proof: Verification) -> str | None:
        """The site to drop next: where the two first diverge, that which an exception names, or one found by halves.

        Before any site, what was fused goes, then the cleaning: neither is a reason to keep a norm, or to refuse a
        model. None where leaving out a site cannot help.
        """
        if attempt.fused:
            return FUSING
        if attempt.cleaning is not None and attempt.cleaning.before > attempt.cleaning.after:
            return CLEANING
        if proof.status != "different" and not proof.failure:
            return None
        changed = [one for one in attempt.decisions if one.outcome != "kept" and one.site not in self.dropped]
        sites = [decision.site for decision in changed]
        if proof.first_divergence in sites:
            # Each drop that brings the result no closer says that another site is at fault, or none.
            deviation = math.inf if proof.max_rel is None else proof.max_rel
            self.in_vain = 0 if deviation < self.least else self.in_vain + 1
            self.least = min(self.least, deviation)
            return None if self.in_vain > IN_VAIN else proof.first_divergence
        named = _named(changed, proof.failure)
        return self._bisected(sites) if named is None else named

    def _bisected(self, sites: Sequence[str]) -> str | None:
        """The site without which the result of those before it holds, and with which it does not."""
        if not sites or not self._holds_without(sites):
            return None
        low, high = 0, len(sites)
        while high - low > 1:
            middle = (low + high) // 2
            if self._holds_without(sites[middle:]):
                low = middle
            else:
                high = middle
        return sites[low]

    def _holds_without(self, sites: Sequence[str]) -> bool:
        attempt = self.source.rewritten({**dict.fromkeys(sites, SUSPECT), **self.dropped})
        return self.proof_of(attempt).status in HOLDS


def _within(attempt: Rewritten[T], proof: Verification) -> Verification:
    """``proof``, where a deviation is no fault: norms of ``attempt`` compute the same under a condition only.

    Inputs that are made to be extreme need not fulfil it.
    """
    conditional = any(one.label == "exact-if" for one in attempt.decisions)
    if not conditional or proof.status != "different" or proof.failure or proof.max_rel is None:
        return proof
    return replace(proof, status="within-budget", budget=BUDGET) if proof.max_rel <= BUDGET else proof


def _named(changed: Sequence[Decision], failure: str) -> str | None:
    """The first site that ``failure`` names, or of which it names a node that absorbed it."""
    for decision in changed:
        for name in (decision.site, *decision.into):
            # Quoted, as in "running Conv node. Name:'stem'" and in "Node (stem)": a bare one may be any word or number.
            if name and re.search(rf"['\"(]{re.escape(name)}['\")]", failure):
                return decision.site
    return None
