"""The text reports: short, searchable, and deaf to what a model's names try to say to a terminal."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from normfold.core.premises import SINGLE_USE
from normfold.records import Decision, Refusal, SiteReport, Verification
from normfold.report import html, text, words

LAST = (
    "verification: equivalent: largest deviation 2.0e-07 of the output's range, 1.0e-06 absolute "
    "(rtol 1.0e-04, 0 inputs fed)"
)
PROOF = Verification("equivalent", max_abs=1e-6, max_rel=2e-7, rtol=1e-4)


def folded(site: str) -> Decision:
    return Decision(site, "BatchNormalization", "folded", into=("conv",), rules=("fold_affine_into_producer",))


def kept(site: str) -> Decision:
    return Decision(site, "BatchNormalization", "kept", refused_by=(Refusal(SINGLE_USE, "Two nodes read it."),))


def shown(decisions: list[Decision], *, terminal: bool = False, detail: int = 0) -> str:
    stream = StringIO()
    console = Console(file=stream, width=10_000, force_terminal=terminal, no_color=True, markup=False, highlight=False)
    text.show_fold(console, "a -> b", decisions, PROOF, detail=detail)
    return stream.getvalue()


def test_one_line_a_norm() -> None:
    lines = shown([folded("bn1"), kept("bn2")]).splitlines()
    assert lines == [
        "a -> b",
        "  folded  bn1  BatchNormalization  into conv",
        "  kept    bn2  BatchNormalization  single-use: Two nodes read it.",
        "2 norms: 1 folded, 1 kept",
        LAST,
    ]


def test_many_norms_are_grouped_by_reason() -> None:
    many = [kept(f"bn{k}") for k in range(100)] + [folded(f"n{k}") for k in range(100)]
    lines = shown(many).splitlines()
    assert len(lines) == 5
    assert "single-use: Two nodes read it.  [bn0, bn1, bn2 and 97 more]" in lines[1]
    assert len(shown(many, detail=1).splitlines()) == 203


def test_quiet_is_the_summary() -> None:
    assert len(shown([folded("bn1")], detail=-1).splitlines()) == 2


@pytest.mark.parametrize("terminal", [False, True])
def test_names_cannot_steer_the_terminal(terminal: bool) -> None:
    output = shown([folded("bn\x1b]0;gotcha\x07[bold]\u202e")], terminal=terminal)
    assert "\x07" not in output
    assert "\u202e" not in output
    assert "\x1b]" not in output
    assert "[bold]" in output


def test_health_is_told() -> None:
    stream = StringIO()
    norm = SiteReport("bn1", "BatchNormalization", (None, 3), ("2 of 3 variances are 0",), folded("bn1"))
    text.show_norms(Console(file=stream, width=200), "a", [norm])
    assert "2 of 3 variances are 0" in stream.getvalue()
    assert "?x3" in stream.getvalue()
    assert "1 norm with a remark on its statistics" in stream.getvalue()


def test_html_escapes_names() -> None:
    page = html.fold_html([folded("<script>")], PROOF)
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


@pytest.mark.parametrize(("value", "expected"), [(None, "-"), (0.0, "0"), (float("nan"), "nan"), (1.26e-7, "1.3e-07")])
def test_numbers(value: float | None, expected: str) -> None:
    assert words.number(value) == expected
