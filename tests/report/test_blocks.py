"""Blocks are plain data; a chart knows where a ratio stands on its scale."""

from __future__ import annotations

import dataclasses
import math
from typing import get_args

import pytest

from normfold.report import blocks
from normfold.report.blocks import Chart, ChartRow, Interval
from report_samples import SAMPLES


def test_the_samples_hold_every_kind_of_block() -> None:
    assert {type(block) for block in SAMPLES} == set(get_args(blocks.Block))


@pytest.mark.parametrize("block", SAMPLES, ids=lambda block: type(block).__name__)
def test_blocks_are_frozen_and_comparable(block: blocks.Block) -> None:
    assert dataclasses.replace(block) == block
    assert hash(block) == hash(dataclasses.replace(block))
    with pytest.raises(AttributeError):
        setattr(block, dataclasses.fields(block)[0].name, "other")


def test_an_interval_in_words() -> None:
    assert Interval(0.652, 0.648, 0.657, "b", "x").text == "0.652x (0.648 to 0.657)"
    assert Interval(1.0, -math.inf, math.inf).text == "1 (-inf to inf)"


def chart(*ratios: float, band: float = 0.0) -> Chart:
    return Chart(tuple(ChartRow(Interval(ratio, ratio, ratio)) for ratio in ratios), "a", band)


def test_one_is_in_the_middle_and_inverses_mirror_each_other() -> None:
    scale = chart(0.5, 4.0)
    assert scale.position(1.0) == 0.5
    assert scale.position(4.0) == pytest.approx(1 - scale.position(0.25))
    assert 0 < scale.position(0.25) < scale.position(0.5) < 0.5 < scale.position(4.0) < 1


@pytest.mark.parametrize(("ratio", "end"), [(0.0, 0.0), (1e-9, 0.0), (1e9, 1.0), (math.inf, 1.0)])
def test_what_is_beyond_the_scale_stands_at_its_end(ratio: float, end: float) -> None:
    assert chart(0.5, 2.0).position(ratio) == end


@pytest.mark.parametrize("scale", [chart(1.0), chart(), chart(0.0, math.inf), chart(1.0, band=0.02)])
def test_a_scale_is_never_empty(scale: Chart) -> None:
    assert scale.reach > 0
    assert scale.position(1.0) == 0.5
