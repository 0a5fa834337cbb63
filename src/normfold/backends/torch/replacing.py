"""Modules that stand in for others: with a bias or without, a norm of another kind."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Final

from torch import nn

from normfold.core.premises import NEEDS_STRUCTURE, ROOM
from normfold.core.views import Linear, Norm, View
from normfold.records import Refusal

LINEAR: Final = frozenset(
    {nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d}
)
"""Modules that may gain or lose a bias."""
NORMS: Final[Mapping[str, type[nn.LayerNorm | nn.RMSNorm]]] = {"layer": nn.LayerNorm, "rms": nn.RMSNorm}
"""The module of each kind of norm that may become another one."""


def irreplaceable(module: nn.Module, view: View, label: str) -> Refusal | None:
    """Why ``module`` cannot make way for one that does what ``view`` says."""
    if isinstance(view, Linear) and type(module) in LINEAR:
        return None
    # A subclass that only normalises, as the caller has made sure, is as good as its base; children would be lost.
    replaceable = isinstance(module, tuple(NORMS.values())) and not list(module.children())
    if not isinstance(view, Norm) or not replaceable or view.kind not in NORMS:
        return Refusal(NEEDS_STRUCTURE, f"{label} is a {type(module).__name__}, which cannot become another module")
    if view.kind == "layer" and view.epsilon is None:
        return Refusal(NEEDS_STRUCTURE, f"the epsilon of {label} is that of its type, and a LayerNorm's is a number")
    if (view.tail is None) != (module.weight is None):
        return Refusal(ROOM, f"{label} has no scale of its own that another norm could have")
    return None


def stand_in(module: nn.Module, view: View) -> nn.Module:
    """A module with room for the constants of ``view``, which does what ``module`` is to do from now on."""
    new = _norm(module, view) if isinstance(view, Norm) else _linear(module, view)
    new.training = module.training
    for name, parameter in new.named_parameters():
        parameter.requires_grad = getattr(module, name, None) is None or getattr(module, name).requires_grad
    return new


def _norm(module: nn.Module, view: Norm) -> nn.Module:
    if not isinstance(module, nn.LayerNorm | nn.RMSNorm):
        raise TypeError(f"not a norm that may become another: {type(module).__name__}")
    shape, epsilon, affine = module.normalized_shape, view.epsilon, module.elementwise_affine
    like = {"device": module.weight.device, "dtype": module.weight.dtype} if affine else {}
    if view.kind == "rms":
        return nn.RMSNorm(shape, epsilon, affine, **like)
    if epsilon is None:
        raise TypeError("a LayerNorm has an epsilon of its own")
    return nn.LayerNorm(shape, epsilon, affine, view.holds_shift, **like)


def _linear(module: nn.Module, view: View) -> nn.Module:
    if not isinstance(view, Linear):
        raise TypeError(f"not a linear operation: {type(view).__name__}")
    new = deepcopy(module)
    weight = new.get_parameter("weight")
    bias = None if view.bias is None else nn.Parameter(weight.new_zeros(view.weight.out_channels))
    new.register_parameter("bias", bias)
    return new


def put(module: nn.Module, path: str, new: nn.Module) -> None:
    """Let ``new`` stand at ``path`` of ``module``."""
    parent, _, name = path.rpartition(".")
    setattr(module.get_submodule(parent), name, new)
