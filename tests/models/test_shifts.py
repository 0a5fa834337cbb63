"""Shifted samples: the same for every reader, and as far from the clean ones as they say."""

from __future__ import annotations

import numpy as np
import pytest

from normfold.errors import UsageError
from normfold.models.dataset import read_dataset
from normfold.models.shifts import CONTRAST, NOISE, SHIFTS, shifted
from normfold.proof.probes import InputSpec

PICTURE = InputSpec("x", np.dtype(np.float32), ("N", 3, 8, 8))


def pictures(dtype=np.float32, count: int = 10):
    rng = np.random.default_rng(0)
    made = rng.integers(0, 256, (count, 3, 8, 8)) if dtype == np.uint8 else rng.standard_normal((count, 3, 8, 8))
    return {"x": made.astype(dtype), "label": np.arange(count)}


def read(data, size: int = 4):
    batches = list(data.batches(size))
    return np.concatenate([one.inputs["x"] for one in batches]), np.concatenate([one.labels for one in batches])


@pytest.mark.parametrize("shift", SHIFTS)
def test_the_size_of_batches_changes_nothing(shift: str) -> None:
    clean = read_dataset(pictures(), (PICTURE,))
    first, labels = read(shifted(clean, shift), 4)
    again, _ = read(shifted(clean, shift), 7)
    assert np.array_equal(first, again)
    assert np.array_equal(labels, np.arange(10))
    assert not np.array_equal(first, pictures()["x"])
    assert np.array_equal(read(shifted(clean, shift).part(3))[0], first[3:])


def test_noise_is_as_large_as_it_says() -> None:
    clean = pictures(count=50)["x"]
    found, _ = read(shifted(read_dataset(pictures(count=50), (PICTURE,)), "noise"))
    share = (found - clean).std(axis=(1, 2, 3)) / clean.std(axis=(1, 2, 3))
    assert abs(share.mean() - NOISE) < 0.01


def test_contrast_keeps_the_mean() -> None:
    clean = pictures()["x"]
    found, _ = read(shifted(read_dataset(pictures(), (PICTURE,)), "contrast"))
    np.testing.assert_allclose(found.mean(axis=(1, 2, 3)), clean.mean(axis=(1, 2, 3)), atol=1e-6)
    np.testing.assert_allclose(found.std(axis=(1, 2, 3)), CONTRAST * clean.std(axis=(1, 2, 3)), rtol=1e-5)


@pytest.mark.parametrize("shape", [(3, 9, 9), (9, 9, 3)])
def test_blur_spreads_a_dot_over_height_and_width(shape: tuple[int, ...]) -> None:
    dot = np.zeros((1, *shape), np.float32)
    at = (0, 0, 4, 4) if shape[0] == 3 else (0, 4, 4, 0)
    dot[at] = 1.0
    found, _ = read(
        shifted(read_dataset({"x": dot, "label": [0]}, (InputSpec("x", dot.dtype, ("N", *shape)),)), "blur")
    )
    weights = np.array([1, 4, 6, 4, 1]) / 16
    plane = found[0, 0] if shape[0] == 3 else found[0, :, :, 0]
    np.testing.assert_allclose(plane[2:7, 2:7], np.outer(weights, weights), atol=1e-7)
    assert abs(found.sum() - 1.0) < 1e-6


def test_bytes_stay_bytes() -> None:
    takes = (InputSpec("x", np.dtype(np.uint8), ("N", 3, 8, 8)),)
    found, _ = read(shifted(read_dataset(pictures(np.uint8), takes), "noise"))
    assert found.dtype == np.uint8


def test_what_cannot_be_shifted() -> None:
    clean = read_dataset(pictures(), (PICTURE,))
    with pytest.raises(UsageError) as caught:
        shifted(clean, "blurr")
    assert (caught.value.code, caught.value.hint) == ("usage", "Did you mean 'blur'?")
    words = InputSpec("x", np.dtype(np.int64), ("N", 4))
    with pytest.raises(UsageError, match="no input has real values"):
        shifted(read_dataset({"x": np.zeros((2, 4), np.int64)}, (words,)), "noise")
    row = read_dataset({"x": np.zeros((2, 4), np.float32)}, (InputSpec("x", np.dtype(np.float32), ("N", 4)),))
    with pytest.raises(UsageError, match="pictures"):
        read(shifted(row, "blur"))
