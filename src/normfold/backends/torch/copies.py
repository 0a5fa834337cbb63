"""Copies of modules in the mode of what they are copies of."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)


def copied(module: M, shared: dict[int, Any] | None = None) -> M:
    """A deep copy of ``module``, each part in the mode of that of ``module``: graphs for both modes forget theirs.

    Args:
        module: what is copied.
        shared: by identity, what the copy has instead of copies of its own.
    """
    own = copy.deepcopy(module, shared)
    for part, other in zip(own.modules(), module.modules(), strict=True):
        if part.training != other.training:
            part.train(other.training)
    return own
