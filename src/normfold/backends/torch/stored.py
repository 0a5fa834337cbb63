"""What a module stores."""

from __future__ import annotations

from itertools import chain

from torch import nn


def stored(module: nn.Module) -> tuple[int, int]:
    """How many floating numbers the parameters and the buffers of ``module`` are, and the bytes that they take."""
    tensors = [tensor for tensor in chain(module.parameters(), module.buffers()) if tensor.is_floating_point()]
    return sum(tensor.numel() for tensor in tensors), sum(tensor.nbytes for tensor in tensors)
