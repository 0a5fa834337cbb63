"""What trained networks' records say of their values, and what calibration pictures measure there."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from os import environ
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import normfold
from folding import run, watched
from normfold.records import StatisticsRecord

GARDEN = Path(environ.get("NORMFOLD_GARDEN", Path(__file__).resolve().parents[3] / "shared" / "garden"))
NETWORKS = ("resnet20", "mobilenetv2", "repvgg", "densenet", "relubn", "denoiser")
PICTURES = 256
LIMITS = {None: (0.15, 0.15), "independent": (0.15, 0.45)}
"""How far a record may be off in its median channel: its mean in deviations, its deviation relative to itself.

Running statistics are an average over the last steps of training, on augmented pictures. Seen with 512 pictures: 0.11
and 0.085 at worst, 0.02 and 0.02 in the median record; of sums whose terms are correlated 0.04 and 0.40, 0.03 and 0.19.
"""
TYPICAL = {None: (0.06, 0.06), "independent": (0.06, 0.3)}
"""Likewise, in the median record of a network."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (GARDEN / "load.py").exists(), reason=f"no trained networks at {GARDEN}"),
]


def loader() -> Any:
    if str(GARDEN) not in sys.path:
        sys.path.append(str(GARDEN))
    pytest.importorskip("torch", reason="the loader needs it")
    pytest.importorskip("PIL", reason="the pictures are JPEG")
    import load

    return load


def pictures(name: str) -> np.ndarray:
    """Calibration pictures as training saw them: the denoiser's have noise.

    Its strength is uniform between 0 and 1, as the statistics say: at 0.5 throughout, where it is scored, the last
    norms see a half of the deviation that they know.
    """
    x = loader().images("calibration", PICTURES)[0]
    rng = np.random.default_rng(0)
    noise = rng.uniform(0, 1, (len(x), 1, 1, 1)) * rng.standard_normal(x.shape)
    return (x + noise).astype(np.float32) if name == "denoiser" else x


def distance(record: StatisticsRecord, value: np.ndarray) -> tuple[float, float]:
    """How far what ``value`` holds is from ``record``, in the median channel."""
    assert record.axis is not None
    flat = np.moveaxis(value.astype(np.float64), record.axis, 0).reshape(len(record.mean), -1)
    mean, deviation = np.array(record.mean), np.array(record.deviation)
    live = deviation > 1e-3 * deviation.max()
    off, ratio = (flat.mean(1) - mean)[live] / deviation[live], flat.std(1)[live] / deviation[live]
    return float(np.median(np.abs(off))), float(np.median(np.abs(ratio - 1)))


def check(records: tuple[StatisticsRecord, ...], measured: Mapping[str, np.ndarray]) -> None:
    for derived, limits in LIMITS.items():
        found = np.array([distance(one, measured[one.value]) for one in records if one.derived == derived])
        if found.size:
            assert (found <= limits).all(), found.max(0)
            assert (np.median(found, axis=0) <= TYPICAL[derived]).all(), np.median(found, axis=0)


def as_file(name: str) -> tuple[tuple[StatisticsRecord, ...], Mapping[str, np.ndarray]]:
    result = normfold.fold(onnx.load(GARDEN / "onnx" / f"{name}.onnx"), verify=False)
    model, x = result.model, pictures(name)
    feeds = {model.graph.input[0].name: x}
    return result.records, feeds | run(watched(model, [record.value for record in result.records]), feeds)


def as_module(name: str) -> tuple[tuple[StatisticsRecord, ...], Mapping[str, np.ndarray]]:
    x = pictures(name)
    import torch

    from normfold.backends.torch import trace

    given = torch.from_numpy(x)
    result = normfold.fold(loader().network(name), (given[:2],), verify=False)
    seen = trace(result.model, (given,), {}, [record.value for record in result.records]).retained
    return result.records, {"input 0": x, **{value: tensor.numpy() for value, tensor in seen.items()}}


@pytest.mark.parametrize("way", [as_file, as_module])
@pytest.mark.parametrize("name", NETWORKS)
def test_recorded_is_measured(name: str, way: Callable[[str], Any]) -> None:
    records, measured = way(name)
    assert records
    check(records, measured)


def test_both_ways_know_the_same() -> None:
    """The same channels, whatever the values are called."""
    loader()
    file, module = (way("resnet20")[0] for way in (as_file, as_module))
    numbers = [sorted((one.mean, one.deviation) for one in records) for records in (file, module)]
    assert len(numbers[0]) == len(numbers[1])
    for (mean, deviation), (other_mean, other_deviation) in zip(*numbers, strict=True):
        assert np.allclose(mean, other_mean, rtol=1e-4, atol=1e-5)
        assert np.allclose(deviation, other_deviation, rtol=1e-4, atol=1e-5)
