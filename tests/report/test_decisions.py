"""Decisions, norms and verifications as blocks."""

from __future__ import annotations

from normfold.records import Decision, Probe, Refusal, SiteReport, Verification
from normfold.report.blocks import Detail
from normfold.report.decisions import decision_blocks, norm_blocks, verification_blocks
from normfold.report.text import plain

LAST = (
    "verification: equivalent: largest deviation 2.0e-07 of the output's range, 1.0e-06 absolute "
    "(rtol 1.0e-04, 1 test input)"
)
PROOF = Verification("equivalent", max_abs=1e-6, max_rel=2e-7, rtol=1e-4, inputs=(Probe("x", (1, 3), "float32", "r"),))


def folded(site: str) -> Decision:
    return Decision(site, "BatchNormalization", "folded", into=("conv",), rules=("fold_affine_into_producer",))


def kept(site: str) -> Decision:
    return Decision(site, "BatchNormalization", "kept", refused_by=(Refusal("single-use", "Two nodes read it."),))


def shown(decisions: list[Decision], detail: Detail = Detail.NORMAL) -> list[str]:
    return plain(decision_blocks(decisions, detail)).splitlines()


def test_one_line_a_norm() -> None:
    assert shown([folded("bn1"), kept("bn2")]) == [
        "  outcome  site  norm                into / why",
        "  folded   bn1   BatchNormalization  into conv",
        "  kept     bn2   BatchNormalization  single-use: Two nodes read it.",
        "2 norms: 1 folded, 1 kept",
    ]


def test_many_norms_are_grouped_by_reason() -> None:
    many = [kept(f"bn{k}") for k in range(100)] + [folded(f"n{k}") for k in range(100)]
    lines = shown(many)
    assert len(lines) == 4
    assert "single-use: Two nodes read it.  [bn0, bn1, bn2 and 97 more]" in lines[1]
    assert len(shown(many, Detail.FULL)) == 202


def test_the_summary_is_the_counts() -> None:
    assert shown([folded("bn1")], Detail.SUMMARY) == ["1 norm: 1 folded"]


def test_verification() -> None:
    assert plain(verification_blocks(PROOF, Detail.NORMAL)).splitlines() == [LAST]
    assert plain(verification_blocks(PROOF, Detail.FULL)).splitlines() == [
        "  input  shape  type     made",
        "  x      1x3    float32  r",
        LAST,
    ]


def test_an_approximation_is_measured_by_its_budget() -> None:
    proof = Verification("within-budget", max_abs=1e-3, max_rel=2e-4, rtol=1e-4, budget=1e-2)
    assert plain(verification_blocks(proof, Detail.NORMAL)) == (
        "verification: within-budget: largest deviation 2.0e-04 of the output's range, 1.0e-03 absolute "
        "(budget 1.0e-02, 0 test inputs)\n"
    )


def test_health_is_told() -> None:
    norm = SiteReport("bn1", "BatchNormalization", (None, 3), ("2 of 3 variances are 0",), folded("bn1"))
    lines = plain(norm_blocks([norm], Detail.NORMAL)).splitlines()
    assert lines == [
        "  would be  site  norm                shape  into / why  statistics",
        "  folded    bn1   BatchNormalization  ?x3    into conv   2 of 3 variances are 0",
        "1 norm: 1 folded; 1 norm with a remark on its statistics",
    ]
    many = plain(norm_blocks([norm] * 30, Detail.NORMAL))
    assert "30  2 of 3 variances are 0  [bn1, bn1, bn1 and 27 more]" in many


def test_without_remarks_there_is_no_column_for_them() -> None:
    norm = SiteReport("bn1", "BatchNormalization", (None, 3), (), folded("bn1"))
    assert "statistics" not in plain(norm_blocks([norm], Detail.NORMAL))
