"""What a module stores."""

from __future__ import annotations

from itertools import chain

import torch
from torch import nn


def stored(module: nn.Module) -> tuple[int, int]:
    """How many floating numbers the parameters and the buffers of ``module`` are, and the bytes that they take."""
    tensors = [tensor for tensor in chain(module.parameters(), module.buffers()) if tensor.is_floating_point()]
    return sum(tensor.numel() for tensor in tensors), sum(tensor.nbytes for tensor in tensors)


def shared_memory(module: nn.Module) -> dict[str, str]:
    """For every tensor in the state of ``module`` that shares memory with another one, the name of that other."""
    first: dict[int, tuple[str, torch.Tensor]] = {}
    out: dict[str, str] = {}
    for name, tensor in chain(module.named_parameters(), module.named_buffers()):
        other, holder = first.setdefault(storage(tensor), (name, tensor))
        if holder is not tensor and tensor.numel():
            out[name], out[other] = other, name
    return out


def storage(tensor: torch.Tensor) -> int:
    """The identity of the memory of ``tensor``."""
    if tensor.layout is not torch.strided:
        return id(tensor)
    return int(tensor.untyped_storage()._cdata)  # noqa: SLF001 - its identity, which nothing else gives
