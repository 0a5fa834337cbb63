"""Options with which a PyTorch module is named, loaded and called."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from normfold.cli.options import file_name, shape
from normfold.errors import OutputError, UsageError

if TYPE_CHECKING:
    from torch import nn

    from normfold.models.module.example import Example

FLOATS: Final = ("float32", "float16", "bfloat16", "float64")
INTEGERS: Final = {"int64": 63, "int32": 31, "int16": 15, "int8": 7, "uint8": 8}
"""Type to the bits that its numbers from 0 have."""
TYPES: Final = (*FLOATS, *INTEGERS, "bool")


REFERENCE: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def is_reference(model: str) -> bool:
    """Whether ``model`` is of the form ``package.module:factory``, and no file."""
    return REFERENCE.fullmatch(model) is not None and not Path(model).exists()


@dataclass(frozen=True, slots=True)
class Wanted:
    """An input as asked for: ``typed`` says whether its type was given, too."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    below: int = 2
    typed: bool = False


def wanted(text: str) -> Wanted:
    """``x=1x3x224x224``, ``ids=1x128:int64`` or ``ids=1x128:int64:1000``: integers below 1000, else below 2."""
    name, equals, rest = text.rpartition("=")
    sizes, *kind = rest.split(":")
    name, dimensions = shape(f"{name}{equals}{sizes}")
    if not kind:
        return Wanted(name, dimensions)
    below = kind[1] if len(kind) == 2 else "2"
    if kind[0] not in TYPES or len(kind) > 2 or not (below.isascii() and below.isdigit() and int(below)):
        raise click.BadParameter(f"{text!r} does not end in a type such as :int64 or :int64:1000.")
    if len(kind) == 2 and int(below) > 2 ** INTEGERS.get(kind[0], 0):
        raise click.BadParameter(f"{text!r}: {kind[0]} has no integers up to {below}.")
    return Wanted(name, dimensions, kind[0], int(below), typed=True)


def free_size(text: str) -> tuple[str, int, str]:
    """``x:0=batch`` to ``("x", 0, "batch")``."""
    place, equals, symbol = text.rpartition("=")
    name, colon, axis = place.rpartition(":")
    if not (equals and colon and name and symbol and axis.isascii() and axis.isdigit()):
        raise click.BadParameter(f"{text!r} is not of the form x:0=batch.")
    return name, int(axis), symbol


MODULE_SHAPES = click.option(
    "--shape",
    "shapes",
    type=wanted,
    metavar="NAME=SHAPE[:TYPE]",
    multiple=True,
    help="Shape of an input, such as x=1x3x224x224; for a PyTorch module also its type, such as ids=1x128:int64, "
    "and what its integers are below, such as ids=1x128:int64:1000 (by default 2); repeatable.",
)
WEIGHTS = click.option(
    "--weights",
    type=file_name,
    metavar="FILE",
    help="Weights to load into the module: a .safetensors file, or a checkpoint of tensors.",
)
DYNAMIC = click.option(
    "--dynamic",
    type=free_size,
    metavar="NAME:AXIS=SIZE",
    multiple=True,
    help="A free size of a PyTorch module's input, by a name for it, such as x:0=batch; repeatable.",
)


@dataclass(frozen=True, slots=True)
class Called:
    """A module, what it is called with, and how its inputs are named."""

    module: nn.Module
    example: Example
    names: tuple[str, ...] | None
    """None where they are those of the module's arguments."""


def loaded(reference: str, wishes: Sequence[Wanted], inputs: str | None, weights: str | None, seed: int) -> Called:
    """The module that ``reference`` names, with inputs made up or read."""
    from normfold.models.data import read_arrays
    from normfold.models.module import load as loading

    module = loading.load(reference, weights)
    given = read_arrays(inputs) if inputs else {}
    tensors = loading.made_up(((w.name, w.shape, w.dtype, w.below) for w in wishes), given, seed)
    if not tensors:
        hint = "Add --shape x=1x3x224x224, or --inputs FILE.npz."
        raise UsageError("usage", "A module is run to be folded, and needs an input.", hint)
    return Called(module, *loading.called_with(module, tensors))


def refuse_overwriting(target: str | None, weights: str | None) -> None:
    """Raise `OutputError` ``output-is-input`` where ``target`` is the file of weights."""
    if target and weights and Path(target).exists() and Path(weights).exists() and Path(target).samefile(weights):
        raise OutputError("output-is-input", f"{target} is the file of weights.", "Choose another name.")


def free_sizes(given: Iterable[tuple[str, int, str]]) -> dict[str, dict[int, str]]:
    """By input name and axis."""
    sizes: dict[str, dict[int, str]] = {}
    for name, axis, symbol in given:
        sizes.setdefault(name, {})[axis] = symbol
    return sizes


def for_onnx(wishes: Sequence[Wanted], **only_modules: Any) -> dict[str, tuple[int, ...]]:
    """Shapes by input name for an ONNX model, which says the types itself.

    Raises:
        UsageError: an option is given that is for modules.
    """
    given = [f"--{name}" for name, value in only_modules.items() if value]
    given += [f"the type in --shape {wish.name}" for wish in wishes if wish.typed]
    if given:
        raise UsageError("usage", f"{given[0]} is for PyTorch modules, named package.module:factory.")
    return {wish.name: wish.shape for wish in wishes}
