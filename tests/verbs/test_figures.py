"""Figures in a notebook and on a terminal."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import onnx

import normfold
import timed


def test_a_table_and_a_picture(tmp_path: Path) -> None:
    model = onnx.load(timed.products(tmp_path, 3))
    effort = normfold.Effort(first=2, most=2, per_process=0.02, warm_up=0.0, details=False)
    result = normfold.bench(model, model, effort=effort)
    root = ET.fromstring(result._repr_html_())  # noqa: S314 - our own
    assert len(root.findall(".//tbody/tr")) == 2
    assert len(root.findall(".//svg/circle")) == 2
    assert any("takes" in (part.text or "") for part in root.findall("p"))
    assert "takes" in repr(result)
    refused = normfold.bench(model, ep="cuda", effort=effort)
    assert "provider-unavailable" in refused._repr_html_()
    assert "provider-unavailable" in repr(refused)
