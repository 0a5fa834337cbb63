"""What is done to an image before a network sees it, so that the network can do it itself.

``x = (scale * u - mean) / std``, the order of the axes, the order of the channels, the type: `Preprocess` is what a
user states, `Stage` what it comes to for one input of one model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from normfold.core.algebra import Affine, Permute, Shuffle
from normfold.core.algebra.affine import Array
from normfold.core.algebra.moves import Dim
from normfold.errors import UsageError

DTYPES: Final = ("uint8", "int8", "uint16", "int16", "float16", "float32", "float64")
"""Types that a raw image may have."""
LAYOUTS: Final = ("NCHW", "NHWC", "CHW", "HWC")
CHANNELS: Final = ("RGB", "BGR")
IMAGE_CHANNELS: Final = (3, 1, 4)
"""How many channels an image has, where nothing else says it."""
NUMBER: Final = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?", re.IGNORECASE | re.ASCII)


def _error(message: str, hint: str = "") -> UsageError:
    return UsageError("bad-preprocess", message, hint)


@dataclass(frozen=True, slots=True)
class Preprocess:
    """``(scale * u - mean) / std`` of a raw image ``u``.

    Attributes:
        mean: one number, or one for each channel in the model's order.
        std: likewise; above zero.
        scale: of the raw values, such as 1/255.
        layout: the raw image's axes: NCHW or NHWC, without a batch CHW or HWC; by default the model's own.
        channels: the raw image's order, where RGB is the model's; BGR turns it round.
        dtype: the raw image's type; by default the model's own.
        input: the model's input; may be left out where there is one only.

    Raises:
        UsageError: ``bad-preprocess``: a value makes no sense.
    """

    mean: Sequence[float] | float = 0.0
    std: Sequence[float] | float = 1.0
    scale: float = 1.0
    layout: str | None = None
    channels: str | None = None
    dtype: str | None = None
    input: str | None = None

    def __post_init__(self) -> None:
        for name in ("mean", "std", "scale"):
            _check_numbers(name, getattr(self, name))
        if np.any(np.asarray(self.std) <= 0):
            raise _error(f"std is {self.std}: it has to be above zero.")
        if np.ndim(self.scale) or not self.scale:
            raise _error(f"scale is {self.scale}: it is one number, not zero.")
        for name, allowed in (("layout", LAYOUTS), ("channels", CHANNELS), ("dtype", DTYPES)):
            if getattr(self, name) not in (None, *allowed):
                raise _error(f"{name} is {getattr(self, name)!r}.", f"One of {', '.join(allowed)}.")
        if len({np.size(value) for value in (self.mean, self.std)} - {1}) > 1:
            raise _error(f"mean has {np.size(self.mean)} numbers and std {np.size(self.std)}.")

    @staticmethod
    def parse(texts: Iterable[str]) -> Preprocess | None:
        """``key=value`` each, as on the command line; ``None`` where there are none.

        Numbers are decimal or a quotient of two such (``1/255``), several of them separated by colons.
        """
        given: dict[str, Any] = {}
        keys = [entry.name for entry in fields(Preprocess)]
        for text in texts:
            key, equals, value = text.partition("=")
            if not equals or not value or key not in keys:
                raise _error(f"{text!r} is not of the form key=value.", f"Keys: {', '.join(keys)}.")
            if key in given:
                raise _error(f"{key} is given twice.")
            given[key] = _value(key, value)
        return Preprocess(**given) if given else None

    def __str__(self) -> str:
        """The same in the words of the command line, for a record."""
        said = {
            entry.name: getattr(self, entry.name)
            for entry in fields(self)
            if getattr(self, entry.name) != entry.default
        }
        return " ".join(
            f"{key}={value if isinstance(value, str) else _numbers_text(value)}" for key, value in said.items()
        )

    def on(self, name: str, shape: Sequence[Dim] | None, dtype: np.dtype[Any]) -> Stage:
        """What this comes to for the input ``name`` of ``shape`` and floating type ``dtype``.

        Raises:
            UsageError: ``bad-preprocess``: the input does not fit, or too little of its shape is known.
        """
        count = max(np.size(self.mean), np.size(self.std), 3 if self.channels == "BGR" else 1)
        if self.channels == "BGR" and count != 3:
            raise _error(f"Images of {count} channels have no order BGR.")
        axis = _channel_axis(name, shape, count) if count > 1 or self.layout else None
        raw = np.dtype(self.dtype) if self.dtype else dtype
        shift = _spread(np.asarray(self.mean) / self.scale, axis)
        _check_range(name, raw, dtype, float(np.abs(shift).max()))
        return Stage(
            name=name,
            raw=raw,
            dtype=dtype,
            order=_order(name, self.layout, axis, shape),
            swapped=() if self.channels != "BGR" else (2, 1, 0),
            rank=len(shape or ()),
            axis=axis if axis is not None else -1,
            shift=shift,
            scale=_spread(self.scale / np.asarray(self.std, dtype=np.float64), axis),
        )


@dataclass(frozen=True, eq=False, slots=True)
class Stage:
    """A preprocessing bound to one input: cast, transpose by ``order``, ``scale * (u - shift)``, swap channels.

    ``order`` is empty where the axes stay as they are, ``swapped`` where the channels along ``axis`` do (negative, of
    the model's input, which has ``rank`` axes). ``shift`` and ``scale`` are in the model's layout and order,
    right-aligned with its input.
    """

    name: str
    raw: np.dtype[Any]
    dtype: np.dtype[Any]
    order: tuple[int, ...]
    swapped: tuple[int, ...]
    rank: int
    axis: int
    shift: Array
    scale: Array

    @property
    def affine(self) -> Affine:
        """The map of the values, in the model's layout and order."""
        return Affine.of(self.scale, -self.scale * self.shift)

    def apply(self, raw: NDArray[Any]) -> NDArray[Any]:
        """What the source takes where the result takes ``raw``: computed in float64, cast once."""
        image = raw.transpose(self.order) if self.order else raw
        if self.swapped:
            image = np.take(image, self.swapped, axis=self.axis)
        return np.asarray(self.scale * (image.astype(np.float64) - self.shift)).astype(self.dtype)

    def prepared(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """``feeds`` with this input's array prepared."""
        return {name: self.apply(array) if name == self.name else array for name, array in feeds.items()}

    @property
    def back(self) -> tuple[int, ...]:
        """The transposition from the model's layout to the raw image's."""
        return tuple(int(k) for k in np.argsort(self.order))

    def in_raw_order(self, constants: Array) -> Array:
        """``constants`` of the model's channels as they apply before the channels are swapped."""
        moved = Shuffle(self.axis, self.swapped).backward(constants) if self.swapped else constants
        return constants if moved is None else moved

    def in_raw_layout(self, constants: Array) -> Array:
        """``constants`` in the model's layout as they apply before the axes are transposed."""
        moved = Permute(self.order).backward(constants) if self.order else constants
        return constants if moved is None else moved


def _check_numbers(name: str, value: Any) -> None:
    numbers = np.asarray(value)
    if numbers.dtype.kind not in "fiu" or numbers.ndim > 1 or not numbers.size or not np.isfinite(numbers).all():
        raise _error(f"{name} is {value!r}: numbers are needed.", f"As in {name}=0.5 or {name}=0.5:0.5:0.5.")


def _check_range(name: str, raw: np.dtype[Any], dtype: np.dtype[Any], shift: float) -> None:
    """Whole raw values and the shift in raw units have to fit the model's type."""
    highest = max(float(np.iinfo(raw).max) if raw.kind in "iu" else 0.0, shift)
    if not highest <= float(ml_dtypes.finfo(dtype).max):
        raise _error(f"Raw values up to {highest:.5g} do not fit {dtype.name}, the type of input {name!r}.")


def _value(key: str, text: str) -> Any:
    if key not in ("mean", "std", "scale"):
        return text
    numbers = tuple(_number(key, part) for part in text.split(":"))
    return numbers[0] if len(numbers) == 1 else numbers


def _number(key: str, text: str) -> float:
    parts = text.split("/")
    if len(parts) > 2 or not all(NUMBER.fullmatch(part) for part in parts):
        raise _error(f"{key}: {text!r} is not a number.", "As in 0.485, 1/255 or, by channel, 0.485:0.456:0.406.")
    over, under = float(parts[0]), float(parts[-1]) if len(parts) == 2 else 1.0
    if not under:
        raise _error(f"{key}: {text!r} divides by zero.")
    return over / under


def _numbers_text(value: Sequence[float] | float) -> str:
    return ":".join(repr(float(number)) for number in np.atleast_1d(value))


def _channel_axis(name: str, shape: Sequence[Dim] | None, count: int) -> int:
    """The axis (negative) of the model's input that holds the channels: the third from the right, or the last."""
    if shape is None:
        raise _error(f"The rank of input {name!r} is not known, so its channels cannot be found.")
    if len(shape) not in (3, 4):
        raise _error(f"Input {name!r} has {len(shape)} axes: an image has 3, or 4 with the batch.")
    wanted = IMAGE_CHANNELS if count == 1 else (count,)
    found = [axis for axis in (-3, -1) if shape[axis] in wanted]
    if found:
        return found[0]
    if isinstance(shape[-3], int) and isinstance(shape[-1], int):
        raise _error(
            f"Input {name!r} has no axis of {' or '.join(map(str, wanted))} channels: its shape is {_text(shape)}."
        )
    hint = "Give the input of the model a fixed number of channels."
    raise _error(f"How many channels input {name!r} has is not known: its shape is {_text(shape)}.", hint)


def _order(name: str, layout: str | None, axis: int | None, shape: Sequence[Dim] | None) -> tuple[int, ...]:
    """How to transpose an image of ``layout`` into the model's own layout; empty where it is the same."""
    if layout is None or axis is None or shape is None:
        return ()
    if len(layout) != len(shape):
        raise _error(f"Input {name!r} has {len(shape)} axes, layout {layout} has {len(layout)}.")
    own = ("N" if len(layout) == 4 else "") + ("CHW" if axis == -3 else "HWC")
    return () if own == layout else tuple(layout.index(letter) for letter in own)


def _spread(numbers: Array, axis: int | None) -> Array:
    if numbers.size == 1:
        return np.asarray(numbers, dtype=np.float64).reshape(())
    return np.asarray(numbers, dtype=np.float64).reshape(-1, *[1] * (-1 - (axis or -1)))


def _text(shape: Sequence[Dim]) -> str:
    return "x".join("?" if dim is None else str(dim) for dim in shape)
