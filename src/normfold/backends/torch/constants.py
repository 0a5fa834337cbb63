"""Constants of a module: reading them in float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from normfold.core.algebra.affine import Array


@dataclass(frozen=True, eq=False)
class Stored:
    """A tensor as the base of a weight; of float32 where NumPy does not know its type."""

    tensor: torch.Tensor

    def numpy(self) -> NDArray[Any]:
        """The values, in the native shape."""
        tensor = self.tensor.detach().cpu()
        return np.asarray((tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy())


def exact(tensor: torch.Tensor) -> Array:
    """The values of ``tensor`` in float64."""
    return np.asarray(tensor.detach().to(device="cpu", dtype=torch.float64).numpy())


def largest(tensor: torch.Tensor) -> float:
    """The largest finite number of the type of ``tensor``."""
    return float(torch.finfo(tensor.dtype).max)


def step(tensor: torch.Tensor) -> float:
    """The smallest positive number of the type of ``tensor``."""
    limits = torch.finfo(tensor.dtype)
    return float(limits.smallest_normal * limits.eps)
