"""PyTorch modules on the command line: how one is named, loaded and called."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from normfold.cli.param_types import ShapedInput, dynamic_axis, file_name
from normfold.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

    from normfold.models.module.example import Example

REFERENCE: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*(:[^\W\d]\w*=.*)?")

WEIGHTS: Final = click.option(
    "--weights",
    type=file_name,
    metavar="FILE",
    help="Weights to load into the module: a .safetensors file, or a checkpoint of tensors.",
)
DYNAMIC: Final = click.option(
    "--dynamic",
    type=dynamic_axis,
    metavar="NAME:AXIS=DIM",
    multiple=True,
    help="Dynamic axis of a PyTorch module's input, and the name of its dimension, such as x:0=batch; repeatable.",
)


def is_reference(model: str) -> bool:
    """Whether ``model`` is of the form ``package.module:factory``, with arguments or without, and no file."""
    return REFERENCE.fullmatch(model) is not None and not Path(model).exists()


@dataclass(frozen=True, slots=True)
class LoadedModule:
    """A module, its example inputs, and the names of its inputs."""

    module: nn.Module
    example: Example
    names: tuple[str, ...] | None
    """None where they are those of the module's arguments."""


def load_module(
    reference: str, shapes: Sequence[ShapedInput], inputs: str | None, weights: str | None, seed: int
) -> LoadedModule:
    """The module that ``reference`` names, with example inputs drawn at random or read from a file."""
    from normfold.models.data import read_arrays
    from normfold.models.module import load as loading

    module = loading.load(reference, weights)
    given = read_arrays(inputs) if inputs else {}
    tensors = loading.generated(((one.name, one.shape, one.dtype, one.below) for one in shapes), given, seed)
    if not tensors:
        hint = "Add --shape x=1x3x224x224, or --inputs FILE.npz."
        raise UsageError("usage", "A PyTorch module needs example inputs to be traced.", hint)
    return LoadedModule(module, *loading.called_with(module, tensors))


def dynamic_axes(given: Iterable[tuple[str, int, str]]) -> dict[str, dict[int, str]]:
    """Names of dynamic dimensions, by input name and axis."""
    axes: dict[str, dict[int, str]] = {}
    for name, axis, symbol in given:
        axes.setdefault(name, {})[axis] = symbol
    return axes
