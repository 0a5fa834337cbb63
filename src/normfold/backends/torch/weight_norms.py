"""Weights that are a length times a direction: PyTorch's weight norm, put on modules whose weight is stored."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from torch import nn
from torch.nn.modules.conv import _ConvTransposeNd
from torch.nn.utils import parametrizations

from normfold.backends.torch.replacing import LINEAR
from normfold.core.premises import NEEDS_STRUCTURE, NONZERO_ROWS
from normfold.core.views import Linear
from normfold.records import Refusal

MARGIN: Final = 4.0
"""How far the square of a length stays from the limits of its type."""


def unnormalisable(module: nn.Module, view: Linear, label: str) -> Refusal | None:
    """Why the weight of ``module``, with the constants of ``view``, cannot be a length times a direction."""
    weight = getattr(module, "weight", None)
    if type(module) not in LINEAR or not isinstance(weight, nn.Parameter):
        because = f"{label} is a {type(module).__name__}, on whose weight no weight norm is put"
        return Refusal(NEEDS_STRUCTURE, because)
    rows, own = view.weight.native().reshape(weight.shape), _axis(module)
    squares = np.square(rows).sum(tuple(axis for axis in range(rows.ndim) if axis != own))
    limits = torch.finfo(weight.dtype)
    low, high = limits.tiny * MARGIN, limits.max / MARGIN
    wrong = np.flatnonzero(~((squares >= low) & (squares <= high)))
    if wrong.size:
        channels = ", ".join(map(str, wrong[:3])) + (", ..." if wrong.size > 3 else "")
        because = f"the weight of {label} would have the squared length {squares[wrong[0]]:.3g} in channel {channels}"
        return Refusal(NONZERO_ROWS, f"{because}, by which a weight norm cannot divide")
    return None


def normalise(module: nn.Module) -> None:
    """Let the weight of ``module`` be a length for each output channel, times a direction."""
    trains = module.get_parameter("weight").requires_grad
    parametrizations.weight_norm(module, "weight", _axis(module))
    for parameter in module.get_submodule("parametrizations").parameters():
        parameter.requires_grad = trains


def _axis(module: nn.Module) -> int:
    """That of the output channels."""
    return 1 if isinstance(module, _ConvTransposeNd) else 0
