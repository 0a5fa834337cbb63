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


def right(module: Any, pictures: Any, labels: Any) -> float:
    """The share of ``pictures`` that ``module`` gets right, in points."""
    import torch

    with torch.no_grad():
        found = torch.cat([module(torch.from_numpy(part)) for part in np.array_split(pictures, 8)])
    return 100 * float((found.argmax(1).numpy() == labels).mean())


@pytest.mark.parametrize(
    ("name", "to", "options", "most"),
    [
        ("resnet20", "group", {"max_offset": 0.0}, 4.0),
        ("resnet20", "group:size=16", {"max_offset": 1.0}, 3.0),
        ("convnext", "rms", {}, 2.0),
    ],
)
def test_fitted_to_unlabelled_pictures(garden: Any, name: str, to: str, options: dict[str, float], most: float) -> None:
    import torch

    module, unlabelled = garden.network(name), garden.images("calibration", 256)[0]
    done = normfold.convert(module, (torch.zeros(2, 3, 32, 32),), to=to, calibrate=unlabelled, **options)
    assert done.verification.status == "within-budget"
    fitted = [one for one in done.decisions if one.label == "calibrated"]
    assert len(fitted) >= len(done.decisions) // 2
    live = options.get("max_offset", 0.0) == 0.0
    assert all((one.certificate.constant_share < 0.01) == live for one in fitted)
    pictures, labels = garden.images("test", 1000)
    assert right(done.model, pictures, labels) >= right(module, pictures, labels) - most


def test_without_data_a_norm_is_inert_and_says_so(garden: Any) -> None:
    import torch

    module = garden.network("resnet20")
    pictures, labels = garden.images("test", 1000)
    given = {"evaluate": {"x": pictures, "label": labels}, "max_drop": 0.5}
    done = normfold.convert(module, (torch.zeros(2, 3, 32, 32),), to="rms", **given)
    assert {one.label for one in done.decisions} == {"exact-if"}
    assert all(one.certificate.constant_share > 0.8 for one in done.decisions)
    assert done.verification.status == "within-budget"


def test_a_tanh_or_an_affine_map_is_refused_without_training(garden: Any) -> None:
    import torch

    unlabelled = garden.images("calibration", 64)[0]
    for to in ("dyt", "static"):
        done = normfold.convert(garden.network("vit"), (torch.zeros(2, 3, 32, 32),), to=to, calibrate=unlabelled)
        assert {str(refusal.premise) for one in done.decisions for refusal in one.refused_by} == {"training-asked"}
