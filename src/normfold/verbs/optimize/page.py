"""The HTML report of an optimised model: what is on it, section by section."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from normfold.pipeline.stages import Json
from normfold.report.blocks import Code, Column, KeyValues, Paragraph, Table
from normfold.report.graphics import Bar, Dot, bars, scatter
from normfold.report.html import html
from normfold.report.network import fates
from normfold.report.page import Section, page, text
from normfold.report.words import bytes_words, counts_sentence, plural
from normfold.verbs.optimize.network import network, sentence
from normfold.verbs.optimize.result import (
    before_after,
    decision_of,
    proof_words,
    ratio_of,
    refusals,
    scored,
    stage_table,
    tuned,
    verdict_words,
)

BARS: Final = 12
"""Operators with bars of their own."""
MOST: Final = 2000
"""Nodes in the table of times."""


def whole_page(whole: Json, source: Path) -> str:
    """The file, given the JSON document and the source's file."""
    found = whole["result"]
    drawn = network(source, found)
    name = found["source"]["name"]
    title = f"{Path(name).name if name else found['source']['kind']}, optimised"
    sections = [
        Section("summary", "Summary", _summary(found)),
        Section("map", "Map of the network", _map(drawn)),
        Section("times", "Where the time goes", _times(found)),
        *_front(found),
        Section("health", "Health of the statistics", _health(found)),
        Section("decisions", "Decisions", _decisions(found)),
        *_quantized(found),
        Section("evidence", "Evidence", _evidence(found)),
        Section(
            "raw", "Raw data", '<details id="raw-json"><summary>JSON, schema normfold/1</summary><pre></pre></details>'
        ),
    ]
    return page(title, _lead(found), sections, drawn, whole)


def _lead(found: Json) -> str:
    words, tone = verdict_words(found)
    tiles = "".join(
        f'<div class="tile"><b>{text(value)}</b><span>{text(says)}</span></div>' for value, says in _tiles(found)
    )
    return f'<p class="verdict {tone}">{text(words)}</p><div class="tiles">{tiles}</div>'


def _tiles(found: Json) -> Iterator[tuple[str, str]]:
    before, after = found["size"]["before"], found["size"]["after"]
    compared = found["times"].get(found["chosen"])
    if compared is not None:
        yield f"{1 / compared['ratio']['value']:.3g}x", "the speed of the source"
    times = [found["figures"][side]["ms"]["value"] for side in ("before", "after")]
    yield f"{times[1]:.3g} ms", f"a run, {times[0]:.3g} ms before"
    yield str(found["norms"]["after"]), f"norms left of {found['norms']['before']}"
    yield bytes_words(after["file"]), f"file, {bytes_words(before['file'])} before"
    accuracy = found["accuracy"]
    if accuracy is not None:
        said = f"{accuracy['metric']}, {scored(accuracy, 'before')} before"
        yield scored(accuracy, "after"), said


def _summary(found: Json) -> str:
    blocks = (*refusals(found), *(Paragraph(f"note: {one}", "caution") for one in found["warnings"]), *tuned(found))
    load = f"<h3>To load it</h3>{html((Code(tuple(found['load'])),))}"
    return html((before_after(found),)) + "<h3>Stages</h3>" + html((stage_table(found), *blocks)) + load


def _map(drawn: dict[str, Any]) -> str:
    tally = "".join(
        f'<span><i class="tag {fate}"></i>{text(fate)} {count}</span>' for fate, count in fates(drawn).items()
    )
    return (
        '<div class="tools"><input id="find" type="search" placeholder="Find a node, an operator, a premise" '
        'aria-label="Find a node in the map" aria-describedby="found"><span id="found" aria-live="polite" class="soft">'
        '</span><button id="in" type="button" aria-label="Zoom in">+</button><button id="out" type="button" '
        'aria-label="Zoom out">&minus;</button><button id="fit" type="button">fit</button></div>'
        f'<p class="key soft">{tally or "no norms"}</p>'
        '<svg id="canvas" tabindex="0" role="group" aria-label="Map of the network: arrow keys move it, plus and minus '
        'zoom, 0 fits it, n and p go from node to node; what each norm became is in the table of decisions, too.">'
        '</svg><div id="node" aria-live="polite"><p class="soft">Drag to move, wheel to zoom, click a node; Enter goes '
        "to the next one found.</p></div>"
        "<noscript><p>The map needs a script; the table of decisions says the same.</p></noscript>"
    )


def _times(found: Json) -> str:
    sides = [found["figures"][side]["nodes"] for side in ("before", "after")]
    if not any(sides):
        return "<p>No times of nodes were measured.</p>"
    before, after = map(_by_operator, sides)
    order = sorted({*before, *after}, key=lambda one: -max(before.get(one, 0.0), after.get(one, 0.0)))
    rows = [Bar(one, before.get(one), after.get(one)) for one in order[:BARS]]
    key = (
        '<p class="key soft"><span><i style="background:var(--before)"></i>before</span>'
        '<span><i style="background:var(--after)"></i>after</span></p>'
    )
    more = f"<p class='soft'>and {plural(len(order) - BARS, 'operator')} more</p>" if len(order) > BARS else ""
    chart = bars(rows, "ms", "Milliseconds a run by operator, before and after")
    note = "<p class='soft'>Milliseconds a run by operator, as ONNX Runtime's profiler counts them; it fuses nodes.</p>"
    return note + key + chart + more + _node_table(sides)


def _by_operator(nodes: Iterable[Sequence[Any]]) -> dict[str, float]:
    spent: dict[str, float] = defaultdict(float)
    for _, operator, microseconds in nodes:
        spent[operator] += microseconds / 1e3
    return spent


def _node_table(sides: Sequence[Sequence[Sequence[Any]]]) -> str:
    """Every node that ONNX Runtime ran, before and after, where names are the same in one row."""
    times = [{(name, operator): spent / 1e3 for name, operator, spent in nodes} for nodes in sides]
    names = sorted({*times[0], *times[1]}, key=lambda one: -max(side.get(one, 0.0) for side in times))
    cells = (
        (name, operator, *("" if (name, operator) not in side else f"{side[name, operator]:.4f}" for side in times))
        for name, operator in names[:MOST]
    )
    heads = ("node", "operator", "ms before", "ms after")
    table = _searchable("nodes", heads, [(row, "") for row in cells])
    return f"<details><summary>{plural(len(names), 'node')}</summary>{table}</details>"


def _front(found: Json) -> Iterator[Section]:
    """Accuracy and time of everything that was tried; nothing where nothing was."""
    points = [one for one in found["front"] if one["latency"] is not None and one["accuracy"] is not None]
    if not points:
        return
    columns = (Column("model"), Column("format"), Column("width"), Column("size", "right"), Column("time"), Column(""))
    rows = tuple(
        (
            one["name"],
            one["format"],
            one["width"],
            bytes_words(one["bytes"]),
            ratio_of(one["latency"]["ratio"]),
            f"{one['accuracy']['metric']} {scored(one['accuracy'], 'after')}",
        )
        for one in points
    )
    metric = points[0]["accuracy"]["metric"]
    chart = scatter(_dots(points), "time over that of the model in floating point", metric, "Accuracy over time")
    yield Section("front", "Accuracy and time of what was tried", chart + html((Table(columns, rows),)))


def _dots(points: Sequence[Json]) -> list[Dot]:
    first = points[0]["accuracy"]
    dots = [Dot("floating point", (1.0, 1.0, 1.0), (first["before"],) * 3)]
    for one in points:
        ratio, accuracy = one["latency"]["ratio"], one["accuracy"]
        change = accuracy["difference"]
        label = f"{one['name']}, {one['width']}"
        dots.append(Dot(label, _bounded(ratio), _bounded(change, accuracy["before"]), one["chosen"]))
    return dots


def _bounded(bounds: Json, start: float = 0.0) -> tuple[float, float, float]:
    """Value and ends from ``start`` on; an end that is unknown is beyond every scale."""
    value, low, high = (bounds[name] for name in ("value", "low", "high"))
    return start + value, -math.inf if low is None else start + low, math.inf if high is None else start + high


def _health(found: Json) -> str:
    remarked = [(norm["site"], remark) for norm in found["inspected"] for remark in norm["health"]]
    told = plural(len(found["inspected"]), "norm")
    if not remarked:
        return f"<p class='good'>{told}: nothing to remark on their statistics.</p>"
    table = html((Table((Column("norm"), Column("remark")), tuple(remarked)),))
    return f"<p class='caution'>{plural(len(remarked), 'remark')} on {told}</p>{table}"


def _decisions(found: Json) -> str:
    decisions = [decision_of(one) for one in found["decisions"]]
    if not decisions:
        return "<p>The network has no norms.</p>"
    rows = [((one.site, one.norm, one.outcome, sentence(one)), one.outcome) for one in decisions]
    heads = ("site", "norm", "outcome", "by / why")
    return f"<p>{text(counts_sentence(decisions))}</p>{_searchable('decided', heads, rows)}"


def _quantized(found: Json) -> Iterator[Section]:
    nodes = found["quantized"]
    if nodes:
        rows = [((one["name"], one["operator"], one["width"], one["because"]), "") for one in nodes]
        heads = ("operation", "operator", "width", "in floating point because")
        yield Section("codes", "Operations on codes", _searchable("narrow", heads, rows))


def _searchable(name: str, heads: Sequence[str], rows: Sequence[tuple[Sequence[str], str]]) -> str:
    """A table that can be searched; rows with an outcome can be chosen by it, too."""
    outcomes = sorted({outcome for _, outcome in rows if outcome})
    choice = "".join(f"<option>{text(one)}</option>" for one in outcomes)
    select = (
        f'<select id="{name}-outcome" aria-label="Outcome"><option value="">all outcomes</option>{choice}</select>'
        if choice
        else ""
    )
    head = "".join(f'<th scope="col">{text(one)}</th>' for one in heads)
    body = "".join(f'<tr data-outcome="{text(outcome)}">{_cells(row, outcome)}</tr>' for row, outcome in rows)
    return (
        f'<div class="tools"><input id="{name}-words" type="search" placeholder="Search" aria-label="Search">'
        f'{select}<span id="{name}-told" aria-live="polite" class="soft"></span></div>'
        f'<div class="rows" tabindex="0" role="region" aria-label="Rows"><table id="{name}" '
        f'data-search="{name}-words" data-outcome="{name}-outcome" data-told="{name}-told">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _cells(row: Sequence[str], outcome: str) -> str:
    cells = [f'<td class="name">{text(row[0])}</td>']
    for cell in row[1:]:
        shown = f'<span class="tag {text(cell)}">{text(cell)}</span>' if outcome and cell == outcome else text(cell)
        cells.append(f"<td>{shown}</td>")
    return "".join(cells)


def _evidence(found: Json) -> str:
    here, asked = found["environment"], found["configuration"]
    inputs = Table(
        (Column("input"), Column("shape"), Column("type"), Column("made")),
        tuple(
            (one["name"], "x".join(map(str, one["shape"])), one["dtype"], one["made"])
            for one in found["verification"]["inputs"]
        ),
    )
    data = KeyValues(tuple((name, f"{asked[name]}: {sha256}") for name, sha256 in found["data"].items() if sha256))
    options = KeyValues(tuple((name, str(value)) for name, value in asked.items() if value not in (None, [], {}, "")))
    machine = KeyValues(
        (
            ("normfold", here["normfold"]),
            ("onnxruntime", str(here["packages"]["onnxruntime"])),
            ("processor", here["processor"]),
            ("source", found["source"]["path_sha256"] or found["source"]["sha256"]),
            ("model.onnx", found["sha256"]),
            ("started", found["started"]),
        )
    )
    parts = [html((Paragraph(proof_words(found)), inputs))]
    parts += ["<h3>Data, by the SHA-256 of their values</h3>", html((data,))] if data.pairs else []
    parts += ["<h3>Configuration</h3>", html((options,)), "<h3>Made with</h3>", html((machine,))]
    return "".join(parts)
