"""Copies of modules in the mode of what they are copies of."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

M = TypeVar("M", bound=nn.Module)


def copied(module: M, shared: dict[int, Any] | None = None) -> M:
    """A deep copy of ``module``, each part in the mode of that of ``module``: graphs for both modes forget theirs.

    Args:
        module: what is copied.
        shared: by identity, what the copy has instead of copies of its own.
    """
    own = copy.deepcopy(module, _computed(module) | (shared or {}))
    for part, other in zip(own.modules(), module.modules(), strict=True):
        if part.training != other.training:
            part.train(other.training)
    return own


def _computed(module: nn.Module) -> dict[int, Any]:
    """By identity, copies of the weights that `torch.nn.utils.weight_norm` computes: results are not copied."""
    out: dict[int, Any] = {}
    for part in module.modules():
        for hook in part._forward_pre_hooks.values():  # noqa: SLF001 - no other way to see them
            held = vars(part).get(hook.name) if isinstance(hook, WeightNorm | SpectralNorm) else None
            if isinstance(held, torch.Tensor):
                out[id(held)] = held.detach().clone()
    return out
