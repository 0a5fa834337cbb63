"""PyTorch's norms of weights: put on modules whose weight is stored, and taken off those that compute it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import numpy as np
import torch
from torch import nn
from torch.nn.modules.conv import _ConvTransposeNd
from torch.nn.utils import parametrizations, parametrize, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from normfold.backends.torch.copies import copied
from normfold.backends.torch.replacing import LINEAR
from normfold.backends.torch.tree import has_hooks
from normfold.core.premises import NEEDS_STRUCTURE, NONZERO_ROWS
from normfold.core.views import Linear
from normfold.records import Refusal

PARAMETRIZATIONS: Final = (parametrizations._WeightNorm, parametrizations._SpectralNorm)  # noqa: SLF001
HOOKS: Final = (WeightNorm, SpectralNorm)
"""The two forms of weight norm and spectral norm: `torch.nn.utils.parametrizations`, and those before."""
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


def is_normalised(module: nn.Module) -> bool:
    """Whether ``module`` is one of PyTorch's linear ones, and its weight, and nothing else of it, has one norm."""
    if "forward" in vars(module):
        return False
    if _hook(module) is not None:
        return type(module) in LINEAR
    own = getattr(module, "parametrizations", None)
    if not parametrize.is_parametrized(module) or parametrize.type_before_parametrizations(module) not in LINEAR:
        return False
    return isinstance(own, nn.ModuleDict) and list(own) == ["weight"] and _is_norm(own["weight"])


def _is_norm(chain: nn.Module) -> bool:
    return [type(step) in PARAMETRIZATIONS for step in chain.children()] == [True]


def _hook(module: nn.Module) -> WeightNorm | SpectralNorm | None:
    """What computes the weight of ``module`` before each call, where that is all that is done before."""
    hooks = list(module._forward_pre_hooks.values())  # noqa: SLF001 - no other way to see them
    found = hooks[0] if len(hooks) == 1 else None
    return found if isinstance(found, HOOKS) and found.name == "weight" else None


def parts(module: nn.Module) -> Collection[nn.Module]:
    """``module``, and where its weight has a norm, the modules that compute that."""
    return set(module.modules()) if is_normalised(module) else {module}


def watched(module: nn.Module) -> bool:
    """Whether somebody watches, or changes, what goes in and out of ``module``, but for a norm of its weight."""
    slots = ("_forward_hooks", "_backward_hooks", "_backward_pre_hooks")
    if _hook(module) is not None:
        return any(getattr(module, slot, None) for slot in slots)
    return any(has_hooks(part) for part in parts(module))


def without_norm(module: nn.Module, computed: torch.Tensor, *, bias: bool) -> nn.Module:
    """A copy of ``module``, whose weight has a norm, that stores ``computed``; with room for a bias, or as it is."""
    new, hook = copied(module), _hook(module)
    trains = any(parameter.requires_grad for parameter in module.parameters())
    if isinstance(hook, WeightNorm):
        remove_weight_norm(new)
    elif hook is not None:
        remove_spectral_norm(new)
    else:
        # Copies share the class that `parametrize.remove_parametrizations` takes the weight out of.
        new.__class__ = parametrize.type_before_parametrizations(module)
        del new.parametrizations
    weight = nn.Parameter(computed.detach().clone(), requires_grad=trains)
    new.register_parameter("weight", weight)
    if bias and getattr(new, "bias", None) is None:
        size = weight.shape[0] if not isinstance(new, _ConvTransposeNd) else new.out_channels
        new.register_parameter("bias", nn.Parameter(weight.new_zeros(size), requires_grad=trains))
    return new


def _axis(module: nn.Module) -> int:
    """That of the output channels."""
    return 1 if isinstance(module, _ConvTransposeNd) else 0
