"""The samples that a model is calibrated or evaluated on, as a stream of batches.

A dataset can be gone through any number of times, and only one batch of it is in memory: arrays are mapped from their
file where it holds them uncompressed, pictures are decoded as they are asked for.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from normfold.core.preprocess import Preprocess
from normfold.errors import UsageError, suggestion
from normfold.models.data import Takes
from normfold.models.named import named, words
from normfold.models.pictures import Pictures
from normfold.runtime.side_files import map_npy, map_npz

Array = NDArray[Any]
LABEL: Final = "label"
"""What the labels are called among the arrays, unless an input has that name."""
REFERENCE: Final = re.compile(r"(?P<package>[^\W\d]\w*(?:\.[^\W\d]\w*)*):(?P<function>[^\W\d]\w*(?:\.[^\W\d]\w*)*)")
CODE: Final = "bad-data"


@dataclass(frozen=True, slots=True)
class Batch:
    """The model's inputs by name, and the labels of the samples in them.

    ``count`` samples are real; where the model's batch size is fixed, the last one is repeated to fill it.
    """

    inputs: dict[str, Array]
    labels: Array | None
    count: int


class Samples(Protocol):
    """Where the samples come from."""

    @property
    def count(self) -> int | None:
        """How many there are; None where only going through them tells."""

    def read(self, start: int, stop: int | None, size: int) -> Iterator[dict[str, Array]]:
        """Those from ``start`` to ``stop``, at most ``size`` at a time: arrays by name, the labels among them."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """Samples for the inputs ``takes`` of a model, from ``start`` to ``stop``.

    The samples of a generator are the feeds that it yields, whatever their first axis.
    """

    origin: str
    """What the user gave, for messages."""
    samples: Samples
    takes: tuple[Takes, ...]
    start: int = 0
    stop: int | None = None

    @property
    def count(self) -> int | None:
        """How many samples there are; None for a generator that was not limited."""
        stops = [stop for stop in (self.samples.count, self.stop) if stop is not None]
        return max(0, min(stops) - self.start) if stops else None

    def part(self, start: int, stop: int | None = None) -> Dataset:
        """The samples from ``start`` to ``stop`` of this one."""
        end = None if stop is None else self.start + stop
        ends = [one for one in (end, self.stop) if one is not None]
        return Dataset(self.origin, self.samples, self.takes, self.start + start, min(ends) if ends else None)

    def batches(self, size: int = 32) -> Iterator[Batch]:
        """The samples in order, ``size`` at a time, or as many as the model's inputs fix.

        Raises:
            UsageError: ``bad-data``: there are none, or what there is does not fit the inputs.
        """
        fixed = fixed_batch(self.takes)
        seen = 0
        for feed in self.samples.read(self.start, self.stop, fixed or size):
            batch = _checked(feed, self, fixed, seen)
            seen += batch.count
            yield batch
        if not seen:
            raise UsageError(CODE, f"{self.origin} has no samples.")

    def labels(self) -> Array:
        """Those of all samples.

        Raises:
            UsageError: ``bad-data``: there are none.
        """
        found = [batch.labels for batch in self.batches()]
        if any(labels is None for labels in found):
            raise no_labels(self.origin)
        return np.concatenate([labels for labels in found if labels is not None])

    def digest(self) -> str:
        """SHA-256 of all inputs and labels, in order."""
        hashed = sha256()
        for batch in self.batches():
            given = batch.inputs if batch.labels is None else {**batch.inputs, LABEL: batch.labels}
            for name, array in sorted(given.items()):
                kept = array[: batch.count] if array.ndim else array
                hashed.update(f"{name} {kept.dtype} {kept.shape[1:]}".encode())
                hashed.update(np.ascontiguousarray(kept).tobytes())
        return hashed.hexdigest()


def no_labels(origin: str) -> UsageError:
    """The error of data without labels where a metric needs them."""
    hint = f"Store them as {LABEL!r}, one for each sample; for pictures, one folder for each class."
    return UsageError(CODE, f"{origin} has no labels, which the metric needs.", hint)


def fixed_batch(takes: Sequence[Takes]) -> int | None:
    """The batch size that the inputs fix, if they do."""
    sizes = {one.shape[0] for one in takes if one.shape and isinstance(one.shape[0], int)}
    found = sizes.pop() if len(sizes) == 1 else None
    return found if isinstance(found, int) and found > 0 else None


def read_dataset(given: object, takes: Sequence[Takes], preprocess: Preprocess | None = None) -> Dataset:
    """The samples that ``given`` names or holds, for the inputs ``takes`` of a model.

    ``given`` is the path of an ``.npz`` file (arrays by input name), an ``.npy`` file (for a model of one input), a
    folder of pictures, ``package.module:function``, which returns an iterable of feeds; or, in Python, an array,
    arrays by input name, such a function, or an iterable that can be gone through again, as a data loader can. The
    first axis counts samples. Labels are called ``label``; an item of an iterable may be ``(inputs, labels)``.

    Raises:
        UsageError: ``bad-data``: it cannot be read, or does not fit the inputs.
        EnvironmentUnavailableError: ``missing-package``: pictures need Pillow.
    """
    takes = tuple(takes)
    if isinstance(given, str | os.PathLike):
        return _read(given, takes, preprocess)
    if isinstance(given, Mapping):
        return _of_arrays("The data", {str(name): np.asarray(array) for name, array in given.items()}, takes)
    if isinstance(given, np.ndarray) or hasattr(given, "__array__"):
        return _of_arrays("The data", {_only(takes, "an array"): np.asarray(given)}, takes)
    if callable(given):
        return Dataset(getattr(given, "__name__", "The function"), _Generated(given, takes), takes)
    if isinstance(given, Iterable) and not isinstance(given, Iterator):
        return Dataset("The data", _Generated(lambda: given, takes), takes)
    if isinstance(given, Iterator):
        hint = "Give the function that makes it, or a list."
        raise UsageError(CODE, "An iterator can be gone through once only.", hint)
    hint = "Give a file, a folder of pictures, package.module:function, arrays by input name, or an iterable of them."
    raise UsageError(CODE, f"An object of type {type(given).__name__} holds no samples.", hint)


def _read(given: str | os.PathLike[str], takes: tuple[Takes, ...], preprocess: Preprocess | None) -> Dataset:
    path = Path(given)
    reference = REFERENCE.fullmatch(os.fspath(given))
    if reference is not None and not path.exists():
        function = named(reference["package"], reference["function"], CODE)
        if not callable(function):
            raise UsageError(CODE, f"{given} is an object of type {type(function).__name__}, not a function.")
        return Dataset(str(given), _Generated(function, takes), takes)
    if path.is_dir():
        return Dataset(str(given), Pictures.of(path, _picture_input(path, takes), preprocess), takes)
    try:
        if path.suffix == ".npy":
            return _of_arrays(str(given), {_only(takes, "an .npy file"): map_npy(path)}, takes)
        return _of_arrays(str(given), map_npz(path), takes)
    except FileNotFoundError as error:
        raise UsageError(CODE, f"There is no file or folder {given}.") from error
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        hint = "Save them with numpy.savez(file, name=array), or give a folder of pictures."
        raise UsageError(CODE, f"{given} cannot be read as arrays: {reason}.", hint) from error


def _only(takes: Sequence[Takes], what: str) -> str:
    if len(takes) != 1:
        names = ", ".join(one.name for one in takes) or "none"
        hint = f"Give an .npz file with arrays named {names}."
        raise UsageError(CODE, f"The model has {len(takes)} inputs, and {what} holds one.", hint)
    return takes[0].name


def _picture_input(folder: Path, takes: Sequence[Takes]) -> Takes:
    images = [one for one in takes if one.shape is not None and len(one.shape) in (3, 4)]
    if len(takes) != 1 or not images:
        hint = "Give the arrays in an .npz file."
        raise UsageError(CODE, f"{folder}: pictures are for a model with one input, of 3 or 4 axes.", hint)
    return images[0]


def _of_arrays(origin: str, arrays: Mapping[str, Array], takes: tuple[Takes, ...]) -> Dataset:
    names = [one.name for one in takes]
    wanted = {name: arrays[name] for name in (*names, LABEL) if name in arrays}
    missing = [name for name in names if name not in arrays]
    if missing:
        others = sorted(set(arrays) - set(wanted))
        hint = suggestion(missing[0], others) or f"It has {', '.join(others) or 'no other arrays'}."
        raise UsageError(CODE, f"{origin} has no array named {missing[0]!r}, which is an input of the model.", hint)
    scalars = [name for name, array in wanted.items() if not array.ndim]
    if scalars:
        raise UsageError(CODE, f"{origin}: {scalars[0]!r} has no axes; the first one counts samples.")
    counts = {name: len(array) for name, array in wanted.items()}
    if len(set(counts.values())) > 1:
        said = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise UsageError(CODE, f"{origin}: the arrays have different numbers of samples: {said}.")
    return Dataset(origin, _Arrays(wanted, next(iter(counts.values()), 0)), takes)


@dataclass(frozen=True, slots=True)
class _Arrays:
    arrays: Mapping[str, Array]
    count: int | None

    def read(self, start: int, stop: int | None, size: int) -> Iterator[dict[str, Array]]:
        end = min(self.count or 0, self.count or 0 if stop is None else stop)
        for first in range(start, end, size):
            yield {name: np.array(array[first : min(first + size, end)]) for name, array in self.arrays.items()}


@dataclass(frozen=True, slots=True)
class _Generated:
    """The feeds of an iterable, as they come."""

    make: Callable[[], Any]
    takes: tuple[Takes, ...]
    count: int | None = None

    def read(self, start: int, stop: int | None, size: int) -> Iterator[dict[str, Array]]:  # noqa: ARG002 - it yields what it yields
        try:
            for item in islice(iter(self.make()), start, stop):
                yield self._feed(item)
        except UsageError:
            raise
        except Exception as error:
            raise UsageError(CODE, f"The data cannot be made: {words(error)}") from error

    def _feed(self, item: Any) -> dict[str, Array]:
        if isinstance(item, Mapping):
            return {str(name): np.asarray(array) for name, array in item.items()}
        parts = tuple(item) if isinstance(item, tuple | list) else (item,)
        names = [one.name for one in self.takes]
        if len(parts) not in (len(names), len(names) + 1):
            raise UsageError(CODE, f"An item of the data has {len(parts)} parts; the model takes {', '.join(names)}.")
        return {name: np.asarray(part) for name, part in zip((*names, LABEL), parts, strict=False)}


def _checked(feed: Mapping[str, Array], data: Dataset, fixed: int | None, seen: int) -> Batch:
    """``feed`` in the types that the model takes, and filled up to its fixed batch size."""
    missing = [one.name for one in data.takes if one.name not in feed]
    if missing:
        hint = suggestion(missing[0], feed)
        raise UsageError(CODE, f"{data.origin}: sample {seen} has no {missing[0]!r}, an input of the model.", hint)
    inputs = {one.name: _array(feed[one.name], one, data.origin, data.start + seen, fixed) for one in data.takes}
    count = next((array.shape[0] for array in inputs.values() if array.ndim), 1)
    labels = feed.get(LABEL) if LABEL not in inputs else None
    if labels is not None and (not labels.ndim or len(labels) != count):
        raise UsageError(CODE, f"{data.origin}: {count} samples, and labels of shape {labels.shape}.")
    if fixed and count < fixed:
        inputs = {name: _filled(array, fixed) for name, array in inputs.items()}
    return Batch(inputs, labels, count)


def _filled(array: Array, size: int) -> Array:
    if not array.ndim or not len(array):
        return array
    return np.concatenate([array, np.repeat(array[-1:], size - len(array), axis=0)])


def _array(array: Array, wanted: Takes, origin: str, first: int, fixed: int | None) -> Array:
    where = f"{origin}: input {wanted.name!r}"
    if wanted.dtype is not None and array.dtype != wanted.dtype:
        array = _cast(array, wanted.dtype, where)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        bad = first + int(np.argwhere(~np.isfinite(array))[0][0]) if array.ndim else first
        raise UsageError(CODE, f"{where} has NaN or infinite values, first in sample {bad}.")
    shape = wanted.shape
    if shape is None:
        return array
    # The last batch may be smaller than a fixed one: it is filled up.
    free = {0} if fixed and array.ndim and array.shape[0] <= fixed else set()
    agrees = len(shape) == array.ndim and all(
        k in free or not isinstance(size, int) or size < 0 or size == array.shape[k] for k, size in enumerate(shape)
    )
    if not agrees:
        text = " x ".join(str(size) if isinstance(size, int) else str(size or "?") for size in shape)
        hint = "The first axis counts samples."
        raise UsageError(CODE, f"{where} has shape {' x '.join(map(str, array.shape))}; the model takes {text}.", hint)
    return array


def _cast(array: Array, wanted: np.dtype[Any], where: str) -> Array:
    """``array`` as ``wanted``, where that loses no more than rounding."""
    kinds = "biu" if wanted.kind in "biu" else "fV" if wanted.kind in "fV" else wanted.kind
    if array.dtype.kind not in kinds and not (wanted.kind == "f" and array.dtype.kind in "iu"):
        raise UsageError(CODE, f"{where} has type {array.dtype}; the model takes {wanted}.")
    cast = array.astype(wanted)
    if wanted.kind in "iu" and not np.array_equal(cast, array):
        raise UsageError(CODE, f"{where} has values that do not fit {wanted}, the type that the model takes.")
    return cast
