"""Results whose norms were fitted: judged by a metric or by their outputs, and how many norms that leaves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from normfold.core.premises import WITHIN_BUDGET
from normfold.measure.metrics import Score
from normfold.models.dataset import Dataset
from normfold.passes.convert import redundant, to_live
from normfold.passes.rewritten import Rewritten
from normfold.pipeline.prove import HOLDS, Proven, Source, refused
from normfold.records import Decision, Refusal, Status, Verification

T = TypeVar("T")

HELD_OUT: Final = 4
"""One of so many calibration samples is held out, to judge by."""
MOST_HELD_OUT: Final = 64
FEEDS: Final = 4
"""Of a generator, of which nobody knows how much it yields, so many feeds are held out."""
LARGEST_DRIFT: Final = 0.5
"""The deviation of outputs, relative to theirs, up to which a result is handed over without a metric to go by."""
FITTED: Final = frozenset({"calibrated", "needs-training"})
JUDGED: Final = frozenset({to_live.INERT_RMS.name, redundant.CONVERSION.name})
"""Conversions whose bound is larger than what rounding explains."""


def split(data: Dataset) -> tuple[Dataset, Dataset]:
    """Samples to fit to, and samples to judge by."""
    count = data.count
    held = FEEDS if count is None else max(1, min(MOST_HELD_OUT, count // HELD_OUT))
    return data.part(held), data.part(0, held)


def fitted(decisions: Sequence[Decision]) -> list[Decision]:
    """Those of norms that were fitted: they compute something else than before."""
    return [
        one
        for one in decisions
        if one.outcome == "converted"
        and (one.label in FITTED or (one.label == "exact-if" and JUDGED.intersection(one.rules)))
    ]


def by_score(score: Score, most: float, drift: float | None) -> Verification:
    """Whether ``score`` drops by ``most`` at most."""
    figure = (
        f"{score.metric} {score.before:.4g} -> {score.after:.4g} {score.unit}".rstrip()
        + f" on {score.samples} samples, a drop of {score.drop:.3g} (at most {most:g})"
    )
    status: Status = "within-budget" if score.drop <= most else "different"
    return Verification(status, because=figure, max_rel=drift, budget=most)


def by_drift(drift: float, where: str) -> Verification:
    """Whether outputs on the inputs ``where`` deviate by little enough."""
    figure = f"outputs on {where} deviate by {drift:.3g} of how they vary"
    status: Status = "within-budget" if drift <= LARGEST_DRIFT else "different"
    return Verification(status, because=figure, max_rel=drift, budget=LARGEST_DRIFT)


def within(source: Source[T], exact: Callable[[], Proven[T]]) -> Proven[T]:
    """The result, with as few norms left out as bring it within its budget: those first that are fitted worst.

    ``exact`` proves a result none of whose norms was fitted.

    Raises:
        DiffersError: no number of norms left out does.
        UnprovenError: there is nothing to judge by.
    """
    attempt = source.rewritten({})
    if not fitted(attempt.decisions):
        return exact()
    proof = source.compared(attempt)
    ranked = sorted(fitted(attempt.decisions), key=_explained)
    if proof.status in HOLDS or proof.status == "skipped":
        return _proven(attempt, proof)
    if proof.status != "different" or not ranked:
        raise refused(attempt.decisions, proof)
    low, high, found = 0, len(ranked), None
    while high - low > 1:
        middle = (low + high) // 2
        attempt = source.rewritten(_left_out(ranked[:middle], proof))
        judged = source.compared(attempt) if fitted(attempt.decisions) else proof
        if judged.status in HOLDS:
            high, found = middle, (attempt, judged)
        else:
            low = middle
    if found is None:
        raise refused(attempt.decisions, proof)
    return _proven(*found)


def _explained(decision: Decision) -> float:
    certificate = decision.certificate
    return 1.0 if certificate is None or certificate.r2 is None else certificate.r2


def _left_out(worst: Sequence[Decision], proof: Verification) -> dict[str, Refusal]:
    because = f"it is among those fitted worst, and with all converted the result misses its budget: {proof.because}"
    return {one.site: Refusal(WITHIN_BUDGET, because) for one in worst}


def _proven(attempt: Rewritten[T], proof: Verification) -> Proven[T]:
    return Proven(attempt.model, attempt.decisions, proof, attempt.changed, attempt.sizes, attempt.cleaning)
