"""A report as one HTML file that needs nothing else: no request leaves it, with scripts or without."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from typing import Any, Final

from normfold.report.words import printable

POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
"""What a browser may load for the page: nothing."""


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page, with a link to it at the top; ``body`` is HTML."""

    id: str
    title: str
    body: str


def page(
    title: str,
    lead: str,
    sections: Sequence[Section],
    network: Mapping[str, Any] | None,
    data: Mapping[str, Any],
) -> str:
    """The whole file; ``lead`` is HTML, ``data`` what the report was made of, ``network`` a map of `report.network`."""
    links = "".join(f'<a href="#{one.id}">{text(one.title)}</a>' for one in sections)
    body = "".join(
        f'<section id="{one.id}" aria-labelledby="{one.id}-title"><h2 id="{one.id}-title">{text(one.title)}</h2>'
        f"{one.body}</section>"
        for one in sections
    )
    theme = '<button id="theme" type="button" aria-label="Switch between light and dark">light / dark</button>'
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{text(title)}</title><style>{_asset('page.css')}</style></head><body>"
        f'<a class="skip" href="#main">Skip to the report</a><header><div><h1>{text(title)}</h1>{theme}</div>{lead}'
        f'<nav aria-label="Parts of the report">{links}</nav></header><main id="main">{body}</main>'
        f"{_json('data', data)}{'' if network is None else _json('network', network)}"
        f"<script>{_asset('page.js')}</script></body></html>\n"
    )


def text(words: str) -> str:
    """``words`` without mark-up and control characters."""
    return escape(printable(words))


def _json(name: str, data: Mapping[str, Any]) -> str:
    """Data that a script finds, in a form that cannot end its element."""
    packed = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{packed}</script>'


def _asset(name: str) -> str:
    return (files("normfold.report") / "assets" / name).read_text(encoding="utf-8")
