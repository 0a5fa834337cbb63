"""The HTML report in a browser: no request, no complaint, and what is searched for is found."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest

import normfold
from browser import Watching, watching
from folding import array, model
from normfold.measure.candidate import Effort

QUICK = Effort(first=2, most=2, per_process=0.05, warm_up=0.01, copies=1, time_limit=20.0)
TYPED = """(() => {{ const box = document.getElementById("{box}"); box.value = "{words}";
box.dispatchEvent(new Event("{event}")); return document.getElementById("{told}").textContent; }})()"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That of a network of which one norm goes, and one with a name that is mark-up stays."""
    folder = tmp_path_factory.mktemp("page")
    body = [
        "[first] a = Conv<pads=[1,1,1,1]>(x, w)",
        "[gone] b = BatchNormalization(a, g, g, g, g)",
        "[relu] c = Relu(b)",
        "[stays] d = InstanceNormalization(c, g, g)",
        "[last] y = Relu(d)",
    ]
    held = {"w": array(6, 3, 3, 3), "g": np.abs(array(6, seed=1)) + 0.5}
    made = model("float[N,3,8,8] x", body, held)
    next(node for node in made.graph.node if node.name == "stays").name = "</script><b>stays</b>"
    onnx.save(made, folder / "net.onnx")
    normfold.optimize(folder / "net.onnx", output=folder / "out", effort=QUICK, without=("tune",), threads=1)
    return folder / "out" / "report.html"


@pytest.fixture(scope="module")
def browser(report: Path):
    with watching() as found:
        found.look(report)
        yield found


def typed(browser: Watching, box: str, words: str, told: str, event: str = "input") -> str:
    return browser.evaluate(TYPED.format(box=box, words=words, told=told, event=event))


def test_it_holds_all_of_the_document(report: Path) -> None:
    page = report.read_text()
    embedded = re.search(r'<script type="application/json" id="data">(.*?)</script>', page)
    assert embedded
    assert json.loads(embedded[1]) == json.loads((report.parent / "report.json").read_text())


def test_it_asks_for_nothing_and_complains_of_nothing(browser: Watching) -> None:
    assert browser.requests() == []
    assert browser.complaints() == []


def test_the_map_is_searched(browser: Watching) -> None:
    assert browser.evaluate("document.querySelectorAll('#canvas g.node').length") == 5
    assert typed(browser, "find", "batchnorm gone", "found") == "1 of 1"
    assert "gone" in browser.evaluate("document.getElementById('node').textContent")
    assert browser.evaluate("document.querySelector('#canvas g.selected title').textContent").startswith("gone")
    assert typed(browser, "find", "nowhere", "found") == "0 found"


def test_a_norm_that_stays_says_why(browser: Watching) -> None:
    typed(browser, "find", "instancenorm", "found")
    said = browser.evaluate("document.getElementById('node').textContent")
    assert "</script><b>stays</b>" in said
    assert "fixed-statistics" in said or "statistics" in said


def test_the_decisions_are_searched_and_chosen_by_outcome(browser: Watching) -> None:
    assert typed(browser, "decided-words", "batch first", "decided-told") == "1 of 2"
    assert typed(browser, "decided-words", "", "decided-told") == "2 of 2"
    assert typed(browser, "decided-outcome", "folded", "decided-told", "change") == "1 of 2"


def test_keys_move_and_zoom_the_map(browser: Watching) -> None:
    key = """(() => { const map = document.getElementById("canvas");
    map.dispatchEvent(new KeyboardEvent("keydown", { key: "%s" }));
    return map.querySelector("g").getAttribute("transform"); })()"""
    places = [browser.evaluate(key % name) for name in ("0", "ArrowLeft", "+", "-", "n", "0")]
    assert len(set(places[:3])) == 3
    assert places[0] == places[-1]


def test_raw_data_are_shown_and_the_theme_switched(browser: Watching) -> None:
    shown = (
        "new Promise((done) => { const raw = document.getElementById('raw-json'); raw.open = true; "
        "setTimeout(() => done(raw.querySelector('pre').textContent), 100); })"
    )
    assert json.loads(browser.evaluate(shown))["schema"] == "normfold/1"
    ground = "getComputedStyle(document.body).backgroundColor"
    light = browser.evaluate(ground)
    browser.evaluate("document.getElementById('theme').click()")
    assert browser.evaluate(ground) != light


def test_everything_that_acts_has_a_name_and_headings_are_in_order(browser: Watching) -> None:
    nameless = """[...document.querySelectorAll("button, input, select, svg")].filter((one) =>
    !(one.getAttribute("aria-label") || one.textContent.trim())).length"""
    assert browser.evaluate(nameless) == 0
    levels = browser.evaluate("[...document.querySelectorAll('h1,h2,h3')].map((one) => +one.tagName[1])")
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert browser.complaints() == []
