"""The vision transformer of the garden: all its LayerNorms become RMSNorms, and no picture changes its class."""

from __future__ import annotations

import sys
from os import environ
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import normfold
from folding import run

GARDEN = Path(environ.get("NORMFOLD_GARDEN", Path(__file__).resolve().parents[3] / "shared" / "garden"))
NORMS = 13

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (GARDEN / "load.py").exists(), reason=f"no trained networks at {GARDEN}"),
]


@pytest.fixture(scope="module")
def garden() -> Any:
    if str(GARDEN) not in sys.path:
        sys.path.append(str(GARDEN))
    pytest.importorskip("torch", reason="the loader needs it")
    pytest.importorskip("PIL", reason="the pictures are JPEG")
    import load

    return load


def test_as_a_module(garden: Any) -> None:
    import torch

    pictures = torch.from_numpy(garden.images("test", 1000)[0])
    module = garden.network("vit")
    done = normfold.convert(module, (pictures[:2],), to="rms")
    assert [(one.outcome, one.label) for one in done.decisions] == [("converted", "exact")] * NORMS
    assert done.verification.status == "equivalent"
    with torch.no_grad():
        classes = [torch.cat([one(part) for part in pictures.split(500)]).argmax(1) for one in (module, done.model)]
    assert torch.equal(*classes)


def test_as_a_file(garden: Any) -> None:
    import onnx

    pictures = garden.images("test", 256)[0]
    source = onnx.load(GARDEN / "onnx" / "vit.onnx")
    done = normfold.convert(source, to="rms")
    assert [(one.outcome, one.label) for one in done.decisions] == [("converted", "exact")] * NORMS
    assert done.verification.status == "equivalent"
    classes = [run(one, {"x": pictures})["y"].argmax(1) for one in (source, done.model)]
    assert np.array_equal(*classes)


def test_depthwise_writers_keep_a_convnext(garden: Any) -> None:
    done = normfold.convert(GARDEN / "onnx" / "convnext.onnx", to="rms")
    kept = [one for one in done.decisions if one.outcome == "kept"]
    assert len(kept) == len(done.decisions) - 1
    assert {"one-group", "calibration-data"} <= {refusal.premise for one in kept for refusal in one.refused_by}
