"""What the values of options look like: each function makes a value of what was typed, or raises ``BadParameter``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import click

BYTES: Final = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
LEAST_BYTES: Final = 64 << 20
SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
"""Units of durations."""
FLOATS: Final = ("float32", "float16", "bfloat16", "float64")
INTEGER_BITS: Final = {"int64": 63, "int32": 31, "int16": 15, "int8": 7, "uint8": 8}
"""Bits of an integer type that hold values from 0 up."""
TYPES: Final = (*FLOATS, *INTEGER_BITS, "bool")


@dataclass(frozen=True, slots=True)
class ShapedInput:
    """One input as ``--shape`` describes it; integers are drawn below ``below``."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    below: int = 2
    typed: bool = False
    """Whether the type was given, too."""


def shape(text: str) -> ShapedInput:
    """``x=1x3x224x224``, ``ids=1x128:int64`` or ``ids=1x128:int64:1000``; ``x=`` is a scalar.

    The name ends at the last ``=``; sizes are integers from 1.
    """
    name, equals, rest = text.rpartition("=")
    sizes, *kind = rest.split(":")
    words = sizes.split("x") if sizes else []
    if not equals or not name or not all(word.isascii() and word.isdigit() and int(word) for word in words):
        raise click.BadParameter(f"{text!r} is not of the form name=1x3x224x224.")
    given = ShapedInput(name, tuple(map(int, words)))
    return _typed(text, given, kind) if kind else given


def _typed(text: str, given: ShapedInput, kind: list[str]) -> ShapedInput:
    below = kind[1] if len(kind) == 2 else "2"
    if kind[0] not in TYPES or len(kind) > 2 or not (below.isascii() and below.isdigit() and int(below)):
        raise click.BadParameter(f"{text!r} does not end in a type such as :int64 or :int64:1000.")
    if len(kind) == 2 and int(below) > 2 ** INTEGER_BITS.get(kind[0], 0):
        raise click.BadParameter(f"{text!r}: {kind[0]} has no integers up to {below}.")
    return ShapedInput(given.name, given.shape, kind[0], int(below), typed=True)


def dynamic_axis(text: str) -> tuple[str, int, str]:
    """``x:0=batch`` to ``("x", 0, "batch")``."""
    place, equals, symbol = text.rpartition("=")
    name, colon, axis = place.rpartition(":")
    if not (equals and colon and name and symbol and axis.isascii() and axis.isdigit()):
        raise click.BadParameter(f"{text!r} is not of the form x:0=batch.")
    return name, int(axis), symbol


def file_name(text: str) -> str:
    """A path; an option in its place (``-o --json``) is a forgotten value, not a file name."""
    if not text or text.startswith("--"):
        raise click.BadParameter(f"expected a file name, got {text!r} (write ./{text} for a file of that name).")
    return text


def duration(text: str) -> float:
    """``500ms``, ``90s``, ``15m`` or ``2h`` to seconds; more than zero."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([A-Za-z]+)", text, re.ASCII)
    if found is None or found[2] not in SECONDS or not float(found[1]):
        raise click.BadParameter(f"{text!r} is not a duration such as 500ms, 90s or 15m.")
    return float(found[1]) * SECONDS[found[2]]


def memory(text: str) -> int:
    """``512MiB`` or ``2GiB`` to bytes; 64MiB at the least."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([A-Za-z]+)", text, re.ASCII)
    if found is None or found[2] not in BYTES or not float(found[1]):
        raise click.BadParameter(f"{text!r} is not a size such as 512MiB or 2GiB.")
    size = int(float(found[1]) * BYTES[found[2]])
    if size < LEAST_BYTES:
        raise click.BadParameter(f"{text!r} is less than the {LEAST_BYTES >> 20}MiB that normfold needs for itself.")
    return size


def indices(text: str) -> tuple[int, ...]:
    """``0,3`` to ``(0, 3)``: integers from 0 without repetitions."""
    words = text.split(",")
    if not all(word.isascii() and word.isdigit() for word in words):
        raise click.BadParameter(f"{text!r} is not of the form 1,8.")
    return tuple(dict.fromkeys(map(int, words)))


def counts(text: str) -> tuple[int, ...]:
    """``1,8`` to ``(1, 8)``: integers from 1 without repetitions."""
    found = indices(text)
    if 0 in found:
        raise click.BadParameter(f"{text!r} has a 0: expected integers from 1, such as 1,8.")
    return found
