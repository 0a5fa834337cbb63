"""The loop of proof, on sources made up for it: which sites are dropped, in how many attempts, and when it gives up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pytest

from normfold.core.premises import VERIFICATION_FAILED
from normfold.passes.rewritten import Rewritten
from normfold.pipeline.prove import IN_VAIN, DiffersError, UnprovenError, prove, unproven
from normfold.records import Decision, Refusal, Verification

SITES = tuple(f"bn{k}" for k in range(20))

Verdict = Callable[[list[str]], Verification]


@dataclass
class Made:
    """A source with ``sites``; ``verdict`` says what the comparison finds where some of them are folded."""

    verdict: Verdict
    sites: tuple[str, ...] = SITES
    changed: bool = True
    attempts: list[list[str]] = field(default_factory=list)
    compared_with: int = 0

    def rewritten(self, dropped: Mapping[str, Refusal]) -> Rewritten[list[str]]:
        folded = [site for site in self.sites if site not in dropped]
        self.attempts.append(folded)
        decisions = tuple(
            Decision(site, "BatchNormalization", "kept", refused_by=(dropped[site],))
            if site in dropped
            else Decision(site, "BatchNormalization", "folded", into=(f"conv_{site}",))
            for site in self.sites
        )
        return Rewritten(folded, decisions, changed=self.changed and bool(folded))

    def compared(self, attempt: Rewritten[list[str]]) -> Verification:
        self.compared_with += 1
        return self.verdict(attempt.model)


def raising(*culprits: str, message: str = "it does not run") -> Verdict:
    """A result that does not run while one of ``culprits`` is folded."""

    def verdict(folded: list[str]) -> Verification:
        if any(site in folded for site in culprits):
            return Verification("different", because=f"result: run: {message}", failure=message)
        return Verification("equivalent")

    return verdict


def kept(source: Made) -> list[str]:
    """The sites that are kept in the proven result; each says why."""
    decisions = [decision for decision in prove(source).decisions if decision.outcome == "kept"]
    assert {refusal.premise for decision in decisions for refusal in decision.refused_by} <= {VERIFICATION_FAILED}
    return [decision.site for decision in decisions]


@pytest.mark.parametrize("culprit", SITES)
def test_a_result_that_raises_is_bisected(culprit: str) -> None:
    source = Made(raising(culprit))
    assert kept(source) == [culprit]
    # The first attempt, without any site, five halvings of twenty sites, and the last attempt.
    assert len(source.attempts) <= 8


def test_every_culprit_is_found() -> None:
    assert kept(Made(raising("bn0", "bn7", "bn8", "bn19"))) == ["bn0", "bn7", "bn8", "bn19"]


def test_two_sites_that_fail_together_lose_one() -> None:
    def verdict(folded: list[str]) -> Verification:
        return raising("bn3")(folded) if "bn11" in folded else Verification("equivalent")

    assert len(kept(Made(verdict))) == 1


@pytest.mark.parametrize("message", ["Node (conv_bn4) Op (Conv)", "running Conv node. Name:'conv_bn4'", "in 'bn4'"])
def test_the_site_that_an_error_names_goes_first(message: str) -> None:
    source = Made(raising("bn4", message=message))
    assert kept(source) == ["bn4"]
    assert len(source.attempts) == 2


def test_a_name_that_is_only_part_of_another_or_a_bare_word_is_none() -> None:
    source = Made(raising("bn4", message="Node (conv_bn1x) and bn2 fail"))
    assert kept(source) == ["bn4"]
    assert len(source.attempts) > 2


def test_the_first_divergence_is_dropped() -> None:
    def verdict(folded: list[str]) -> Verification:
        wrong = [site for site in ("bn2", "bn5") if site in folded]
        if not wrong:
            return Verification("equivalent", errors=dict.fromkeys(folded, 1e-7))
        return Verification("different", max_rel=0.1 * len(wrong), first_divergence=wrong[0])

    source = Made(verdict)
    assert kept(source) == ["bn2", "bn5"]
    assert len(source.attempts) == 3
    assert prove(Made(verdict)).decisions[0].error == 1e-7


def test_drops_in_vain_end() -> None:
    def verdict(folded: list[str]) -> Verification:
        return Verification("different", max_rel=0.1, first_divergence=folded[0])

    source = Made(verdict)
    with pytest.raises(DiffersError) as caught:
        prove(source)
    assert len(source.attempts) == IN_VAIN + 2
    assert caught.value.code == "result-differs"
    assert caught.value.verification.status == "different"


def test_a_difference_without_inner_values_is_bisected_too() -> None:
    def verdict(folded: list[str]) -> Verification:
        return Verification("different", max_rel=0.1) if "bn6" in folded else Verification("equivalent")

    assert kept(Made(verdict)) == ["bn6"]


def test_what_no_site_is_at_fault_for_is_not_handed_over() -> None:
    source = Made(lambda _folded: Verification("different", max_rel=0.1), sites=("bn0", "bn1"))
    source.rewritten = lambda dropped, made=source.rewritten: Rewritten([], made(dropped).decisions)  # type: ignore[method-assign]
    with pytest.raises(DiffersError):
        prove(source)
    assert len(source.attempts) == 2


def test_what_cannot_be_compared_is_not_handed_over() -> None:
    source = Made(lambda _folded: Verification("unavailable", because="source: time"))
    with pytest.raises(UnprovenError) as caught:
        prove(source)
    assert (caught.value.code, caught.value.exit_code, len(source.attempts)) == ("unverified", 3, 1)


def test_a_crash_of_the_result_is_bisected() -> None:
    def verdict(folded: list[str]) -> Verification:
        crashed = Verification("unavailable", because="result: crash: exit status -11", failure="exit status -11")
        return crashed if "bn9" in folded else Verification("equivalent")

    assert kept(Made(verdict)) == ["bn9"]


def test_what_nothing_was_done_to_is_not_compared() -> None:
    source = Made(raising(*SITES), changed=False)
    proven = prove(source)
    assert source.compared_with == 0
    assert (proven.verification.status, proven.verification.because) == ("equivalent", "nothing was changed")
    assert not proven.changed


def test_without_a_proof_nothing_is_compared() -> None:
    source = Made(raising(*SITES))
    assert unproven(source, "not asked for").verification == Verification("skipped", because="not asked for")
    assert source.compared_with == 0
