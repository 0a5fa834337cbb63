"""Blocks as text: aligned and searchable in a pipe, coloured on a terminal, deaf to what names say to either."""

from __future__ import annotations

import re

import pytest

from normfold.report import text, words
from normfold.report.blocks import Code, Column, Heading, Interval, KeyValues, Names, Paragraph, Table
from report_samples import HOSTILE, SAMPLES

GOLDEN = """\
a -> b
  outcome  count  time
  folded      12  0.652x (0.648 to 0.657)
  kept         3  -
  note: one note
  python     3.13
  processor  Abacus
  b  ...o................|....................  0.652x (0.648 to 0.657)
  c  ....................|......==o==.........  1.25x (1.2 to 1.3)
                         |                      | is a
a takes 1.5 ms (1.25 to 2)
Two of three.
b takes less time: faster
  kept for one reason:
      one: a sentence.
    bn1
    bn2
    and 7 more
    import b
    b.load('b.json')
"""
CONTROL = re.compile(r"\x1b\[[0-9;]*m")


def test_every_block_in_a_pipe() -> None:
    assert text.plain(SAMPLES) == GOLDEN


def test_a_terminal_gets_the_same_words_and_colours() -> None:
    shown = text.coloured(SAMPLES, width=100)
    assert CONTROL.search(shown)
    assert CONTROL.sub("", shown).split() == GOLDEN.split()


def test_a_narrow_terminal_wraps_cells_and_loses_nothing() -> None:
    table = Table((Column("site"), Column("why")), (("bn1", "because " * 20),))
    shown = CONTROL.sub("", text.coloured((table,), width=40))
    assert shown.count("because") == 20
    assert all(len(line) <= 40 for line in shown.splitlines())


def test_sentences_are_wrapped_and_names_are_whole() -> None:
    name = "/encoder/layer.11" * 8
    lines = text.plain((Names("kept:", (name,), (f"because {name} " * 3,)),)).splitlines()
    assert f"    {name}" in lines
    assert sum(name in line for line in lines) == 4
    assert all(len(line) <= 80 or name in line for line in lines)


def test_nothing_to_show_is_nothing() -> None:
    assert text.plain(()) == text.plain((Table((Column("head"),), ()),)) == text.plain((KeyValues(()),)) == ""


@pytest.mark.parametrize(
    "block",
    [
        Heading(HOSTILE),
        Paragraph(HOSTILE),
        Code((HOSTILE,)),
        Interval(1, 1, 1, HOSTILE),
        KeyValues(((HOSTILE, HOSTILE),)),
        Table((Column("x"),), ((HOSTILE,),), notes=(HOSTILE,)),
        Names(HOSTILE, (HOSTILE,), (HOSTILE,)),
    ],
)
@pytest.mark.parametrize("render", [text.plain, text.coloured])
def test_names_cannot_steer_the_terminal(block, render) -> None:
    output = CONTROL.sub("", render((block,)))
    assert "\x07" not in output
    assert "\u202e" not in output
    assert "\x1b" not in output
    assert "[bold]" in output


@pytest.mark.parametrize(("value", "expected"), [(None, "-"), (0.0, "0"), (float("nan"), "nan"), (1.26e-7, "1.3e-07")])
def test_numbers(value: float | None, expected: str) -> None:
    assert words.number(value) == expected
