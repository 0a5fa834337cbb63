"""Samples as the world may show them, and not as they were collected: noisier, blurred, or of less contrast.

An average over clean samples hides what a result loses on others. A shift depends on nothing but the sample and its
place, so that two models see the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from normfold.errors import UsageError, suggestion
from normfold.models.dataset import LABEL, Dataset, Samples

Array = NDArray[Any]
Shift = Literal["noise", "blur", "contrast"]
SHIFTS: Final = get_args(Shift)
NOISE: Final = 0.2
"""Standard deviation of the noise, over that of the sample."""
CONTRAST: Final = 0.5
"""What is left of the differences from the sample's mean."""
ROUNDS: Final = 2
"""How often a picture is smoothed with the weights 1, 2, 1."""
COLOURS: Final = (1, 3, 4)
CODE: Final = "bad-data"


def shifted(data: Dataset, shift: str) -> Dataset:
    """The samples of ``data`` with every real-valued input, or picture of bytes, shifted.

    Raises:
        UsageError: ``usage``, there is no such shift; ``bad-data``, no input can be shifted.
    """
    if shift not in SHIFTS:
        raise UsageError(
            "usage", f"There is no shift {shift!r}.", suggestion(shift, SHIFTS) or f"One of {', '.join(SHIFTS)}."
        )
    names = frozenset(one.name for one in data.takes if one.dtype is not None and _takes_shifts(one.dtype))
    if not names:
        raise UsageError(CODE, f"{data.origin}: no input has real values or bytes that could be shifted.")
    return replace(data, samples=_Shifted(data.samples, shift, names))


def _takes_shifts(dtype: np.dtype[Any]) -> bool:
    return dtype.kind in "fV" or dtype == np.uint8


@dataclass(frozen=True, slots=True)
class _Shifted:
    samples: Samples
    shift: str
    names: frozenset[str]

    @property
    def count(self) -> int | None:
        return self.samples.count

    def read(self, start: int, stop: int | None, size: int) -> Iterator[dict[str, Array]]:
        first = start
        for feed in self.samples.read(start, stop, size):
            yield {name: self._made(array, name, first) for name, array in feed.items()}
            first += max((len(array) for array in feed.values() if array.ndim), default=1)

    def _made(self, array: Array, name: str, first: int) -> Array:
        if name not in self.names or name == LABEL or not array.ndim:
            return array
        work = np.stack([FUNCTIONS[self.shift](one, first + index) for index, one in enumerate(_real(array))])
        if array.dtype.kind in "iu":
            limits = np.iinfo(array.dtype)
            work = np.clip(np.rint(work), limits.min, limits.max)
        return np.asarray(work.astype(array.dtype))


def _real(array: Array) -> Array:
    return np.asarray(array.astype(np.float32))


def _noise(sample: Array, index: int) -> Array:
    drawn = np.random.default_rng(index).standard_normal(sample.shape, dtype=np.float32)
    return np.asarray(sample + NOISE * sample.std() * drawn)


def _contrast(sample: Array, _: int) -> Array:
    mean = sample.mean()
    return np.asarray(mean + CONTRAST * (sample - mean))


def _blur(sample: Array, _: int) -> Array:
    if sample.ndim != 3:
        raise UsageError(CODE, f"Only pictures, of three axes a sample, can be blurred: this one has {sample.ndim}.")
    axes = (0, 1) if sample.shape[2] in COLOURS and sample.shape[0] not in COLOURS else (1, 2)
    for axis in axes * ROUNDS:
        around = np.pad(sample, [(int(one == axis),) * 2 for one in range(3)], mode="edge")
        before, after = (np.take(around, range(at, at + sample.shape[axis]), axis) for at in (0, 2))
        sample = np.asarray((before + 2 * sample + after) / 4)
    return sample


FUNCTIONS: Final[Mapping[str, Callable[[Array, int], Array]]] = {
    "noise": _noise,
    "blur": _blur,
    "contrast": _contrast,
}
