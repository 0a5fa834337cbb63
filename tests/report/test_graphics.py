"""The charts of the HTML report."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET

from normfold.report.graphics import Bar, Dot, bars, scatter
from report_samples import HOSTILE


def test_bars_are_as_long_as_their_values() -> None:
    root = ET.fromstring(bars([Bar("Conv", 4.0, 1.0), Bar("Gemm", None, 2.0)], "ms", "times"))  # noqa: S314 - our own
    lengths = [float(one.get("width", "0")) for one in root.findall("rect")]
    assert [round(one / lengths[0], 3) for one in lengths] == [1.0, 0.25, round(1 / lengths[0], 3), 0.5]
    assert [one.text for one in root.findall("text")] == ["Conv", "4 ms", "1 ms", "Gemm", "-", "2 ms"]


def test_dots_stand_in_the_order_of_their_values() -> None:
    dots = [Dot("a", (1.0, 0.9, 1.1), (80, 79, 81)), Dot("b", (0.5, 0.4, 0.6), (79.5, -math.inf, math.inf), True)]
    root = ET.fromstring(scatter(dots, "time", "top1", "front"))  # noqa: S314 - our own
    (a, b) = root.findall("circle")
    assert float(b.get("cx", "")) < float(a.get("cx", ""))
    assert float(b.get("cy", "")) > float(a.get("cy", ""))
    assert b.get("class") == "dot chosen"


def test_whiskers_without_an_end_stay_in_the_plot() -> None:
    page = scatter([Dot("a", (1.0, -math.inf, math.inf), (80, 79, 81))], "time", "top1", "front")
    assert "inf" not in page
    assert "nan" not in page


def test_labels_of_dots_that_are_near_do_not_cover_each_other() -> None:
    dots = [
        Dot(name, (0.5 + at / 100, 0.4, 0.6), (80.0, 79.0, 81.0)) for at, name in enumerate(("qdq", "contrib", "c"))
    ]
    root = ET.fromstring(scatter([*dots, Dot("far", (1.0, 1.0, 1.0), (80.0, 80.0, 80.0))], "t", "a", ""))  # noqa: S314
    lines = [float(one.get("y", "")) for one in root.findall("text") if one.text in ("qdq", "contrib", "c")]
    assert min(abs(a - b) for a in lines for b in lines if a is not b) >= 14


def test_names_are_escaped() -> None:
    for page in (
        bars([Bar(HOSTILE, 1, 1)], HOSTILE, HOSTILE),
        scatter([Dot(HOSTILE, (1, 1, 1), (1, 1, 1))], "x", "y", ""),
    ):
        assert "<script" not in page
        ET.fromstring(page)  # noqa: S314 - our own
