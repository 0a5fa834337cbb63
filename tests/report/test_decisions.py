"""Decisions, norms and verifications as blocks."""

from __future__ import annotations

from normfold.core.premises import KNOWN_RANK, NO_SHIFT, PREMISES, SINGLE_USE
from normfold.records import Decision, Probe, Refusal, SiteReport, Size, Verification
from normfold.report.blocks import Detail
from normfold.report.decisions import decision_blocks, norm_blocks, size_blocks, verification_blocks
from normfold.report.text import plain

LAST = (
    "verification: equivalent: largest deviation 2.0e-07 of the output's range, 1.0e-06 absolute "
    "(rtol 1.0e-04, 1 test input)"
)
PROOF = Verification("equivalent", max_abs=1e-6, max_rel=2e-7, rtol=1e-4, inputs=(Probe("x", (1, 3), "float32", "r"),))


def folded(site: str) -> Decision:
    return Decision(site, "BatchNormalization", "folded", into=("conv",), rules=("fold_affine_into_producer",))


def kept(site: str) -> Decision:
    return Decision(site, "BatchNormalization", "kept", refused_by=(Refusal(KNOWN_RANK, "x has no rank."),))


def shown(decisions: list[Decision], detail: Detail = Detail.NORMAL) -> list[str]:
    return plain(decision_blocks(decisions, detail)).splitlines()


def test_a_row_a_reason_and_the_names_below() -> None:
    assert shown([folded("bn1"), kept("bn2")]) == [
        "  outcome  norms  norm                by / why",
        "  folded       1  BatchNormalization  fold_affine_into_producer",
        "  kept         1  BatchNormalization  known-rank",
        "  folded by fold_affine_into_producer:",
        "    bn1 -> conv",
        "  kept for known-rank:",
        "      known-rank: x has no rank. Name the input's sizes with --shape.",
        "    bn2",
        "2 norms: 1 folded, 1 kept",
    ]


def test_scales_stand_under_their_own_word() -> None:
    scale = Decision("scale", "Mul", "folded", into=("conv",), rules=("fold_affine_into_producer",), role="scale")
    stays = Decision("div", "Div", "kept", refused_by=(Refusal(SINGLE_USE, "a is read twice"),), role="scale")
    assert shown([scale, folded("bn1"), stays]) == [
        "  outcome  norms  norm                by / why",
        "  folded       1  BatchNormalization  fold_affine_into_producer",
        "  folded by fold_affine_into_producer:",
        "    bn1 -> conv",
        "  outcome  scales  scale  by / why",
        "  folded        1  Mul    fold_affine_into_producer",
        "  kept          1  Div    single-use",
        "  folded by fold_affine_into_producer:",
        "    scale -> conv",
        "  kept for single-use:",
        "      single-use: a is read twice. Nothing to mend in the file: another reader",
        "      needs the value as it is now.",
        "    div",
        "1 norm: 1 folded; 1 scale folded",
    ]
    assert shown([scale])[0] == "  outcome  scales  scale  by / why"


def test_many_norms_are_not_all_named() -> None:
    many = [kept(f"bn{k}") for k in range(100)] + [folded(f"n{k}") for k in range(100)]
    lines = shown(many)
    assert [line for line in lines if "more" in line] == ["    and 97 more"] * 2
    assert "      known-rank: e.g. x has no rank. Name the input's sizes with --shape." in lines
    assert {f"    bn{k}" for k in range(100)} <= set(shown(many, Detail.FULL))


def test_the_table_fits_a_terminal() -> None:
    norm = "SkipSimplifiedLayerNormalization"
    refusals = tuple(Refusal(premise, "It is not so.") for premise in PREMISES)
    worst = Decision("/site" * 40, norm, "part-folded", ("/into" * 40,), ("a_rule",), refusals)
    table = decision_blocks([worst] * 1000, Detail.NORMAL)[0]
    assert max(map(len, plain((table,)).splitlines())) <= 80


def test_each_premise_is_explained_once() -> None:
    refusals = (Refusal(SINGLE_USE, "a is read twice"), Refusal(NO_SHIFT, "c"), Refusal(SINGLE_USE, "b is, too"))
    lines = shown([Decision("bn", "BatchNormalization", "kept", refused_by=refusals)])
    assert sum("single-use: a is read twice." in line for line in lines) == 1
    assert not any("b is, too" in line for line in lines)


def test_what_absorbed_a_norm_is_cut_short() -> None:
    one = Decision("bn", "BatchNormalization", "folded", tuple("abcde"), ("fold_affine_into_consumer",))
    assert "    bn -> a, b, c and 2 more" in shown([one])


def test_a_norm_that_costs_less_is_still_a_norm() -> None:
    lowered = Decision("bn", "BatchNormalization", "lowered", ("pool",), ("move_norm_past_pool",))
    (table,) = size_blocks([lowered], Size(1, 1, 1, None), Size(1, 1, 1, None))
    assert plain((table,)).splitlines()[1].split() == ["norms", "1", "1"]


def test_sizes_before_and_after() -> None:
    blocks = size_blocks([folded("bn1"), kept("bn2")], Size(12, 1_234_567, 5 << 20, 4_110_000_000), Size(9, 999, 77, 0))
    assert plain(blocks).splitlines() == [
        "                before  after",
        "  norms              2      1",
        "  nodes             12      9",
        "  parameters    1.23 M    999",
        "  weights     5.00 MiB   77 B",
        "  MACs          4.11 G      0",
    ]
    unknown = size_blocks([], Size(1, 1, 1, None), Size(1, 1, 1, None))
    assert "MACs" not in plain(unknown)


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
        "  outcome  norms  norm                by / why",
        "  folded       1  BatchNormalization  fold_affine_into_producer",
        "  folded by fold_affine_into_producer:",
        "    bn1  ?x3 -> conv",
        "  statistics: 2 of 3 variances are 0 (1 norm)",
        "    bn1",
        "1 norm: 1 folded; 1 norm with a remark on its statistics",
    ]
    many = plain(norm_blocks([norm] * 30, Detail.NORMAL))
    assert "statistics: 2 of 3 variances are 0 (30 norms)\n    bn1\n    bn1\n    bn1\n    and 27 more" in many


def test_without_remarks_there_is_no_column_for_them() -> None:
    norm = SiteReport("bn1", "BatchNormalization", (None, 3), (), folded("bn1"))
    assert "statistics" not in plain(norm_blocks([norm], Detail.NORMAL))
