"""The inputs that a user gives for a model: shapes and arrays by name, from a call or from an ``.npz`` file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from normfold.core.algebra.moves import Dim
from normfold.errors import UsageError
from normfold.runtime.side_files import read_npz

Array = NDArray[Any]
Shapes = Mapping[str, Sequence[int]]
Arrays = Mapping[str, Array]
File = str | os.PathLike[str]


class Takes(Protocol):
    """What an input of a model takes."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def dtype(self) -> np.dtype[Any] | None:
        """None for what is no tensor."""

    @property
    def shape(self) -> tuple[Dim, ...] | None:
        """Sizes, symbols or None for each axis; None where the rank is unknown."""


@dataclass(frozen=True, slots=True)
class UserInputs:
    """What the user fixed of a model's inputs: shapes and arrays by input name."""

    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    arrays: Arrays = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Inputs of which something is fixed."""
        return tuple(dict.fromkeys((*self.shapes, *self.arrays)))


def user_inputs(shapes: Shapes | None, inputs: Mapping[str, object] | File | None) -> UserInputs:
    """What ``shapes=`` and ``inputs=`` of a verb say; ``inputs`` may be the path of an ``.npz`` file.

    Raises:
        UsageError: ``usage`` where ``inputs`` holds sizes; ``bad-input`` where the file cannot be read.
    """
    fixed = {name: tuple(shape) for name, shape in (shapes or {}).items()}
    if isinstance(inputs, str | os.PathLike):
        return UserInputs(fixed, read_arrays(inputs))
    for name, given in (inputs or {}).items():
        if isinstance(given, tuple | list) and all(isinstance(size, int) for size in given):
            hint = f"For a shape, use shapes={{{name!r}: {tuple(given)}}}."
            raise UsageError("usage", f"inputs= takes arrays, and {name!r} is a {type(given).__name__} of sizes.", hint)
    return UserInputs(fixed, {name: np.asarray(array) for name, array in (inputs or {}).items()})


def read_arrays(path: File) -> dict[str, Array]:
    """The arrays of an ``.npz`` file by name.

    Raises:
        UsageError: ``bad-input`` where it is none.
    """
    try:
        return read_npz(path)
    except FileNotFoundError as error:
        raise UsageError("bad-input", f"There is no file {path}.") from error
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise UsageError("bad-input", f"{path} is not an .npz file of arrays: {reason}.") from error
