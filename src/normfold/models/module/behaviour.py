"""What a module does when it is called: whether it gives the same outputs twice, and why it does not run."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from normfold.errors import UsageError
from normfold.models.module.duplicate import replica
from normfold.models.module.example import Example, call, tensors_in
from normfold.runtime import Failed

OUTSIDE: Final = "what it computes depends on something outside itself: a clock, a counter, a generator of its own"
RANDOM: Final = "it draws random numbers"
LISTED: Final = 3
"""Names given as examples in a sentence."""


def seed_generators(seed: int) -> None:
    """Let the generators that modules draw from, Python's, NumPy's and PyTorch's, start anew."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - the global one
    torch.manual_seed(seed)


def unsteadiness(module: nn.Module, example: Example, *, seeded: bool) -> str:
    """Why two runs of ``module`` on ``example`` differ; empty where they do not.

    With ``seeded``, each run is of a module as it came, and gets the same random numbers.
    """
    one = replica(module)
    first, fresh = _answer(one, example, 0), _answer(replica(module), example, 0)
    if not _same(first, fresh):
        return OUTSIDE
    if seeded:
        return ""
    if not _same(first, _answer(one, example, 0)):
        changed = [*_changed(module, one)][:LISTED]
        return f"its state changes from call to call{': ' if changed else ''}{', '.join(changed)}"
    if not _same(first, _answer(replica(module), example, 1)):
        training = [path for path, inner in module.named_modules() if inner.training and path][:LISTED]
        return RANDOM + (f": {', '.join(map(repr, training))} in training mode" if training else "")
    return ""


def not_running(module: nn.Module, example: Example, because: str) -> UsageError:
    """The error that ``module`` raised ``because`` while it was called without gradients, or traced."""
    if isinstance(call(module, example, gradients=True), Failed):
        return UsageError("bad-input", f"The module does not run on the example inputs: {because}")
    hint = "Fold the part of it that runs under torch.no_grad, and put the result in its place."
    if isinstance(call(module, example), Failed):
        message = f"The module takes gradients in its forward, so it cannot be traced: {because}"
    else:
        message = f"The module runs, but not while its operations are recorded: {because}"
    return UsageError("not-traceable", message, hint)


def _answer(module: nn.Module, example: Example, seed: int) -> Any | Failed:
    seed_generators(seed)
    return call(module, example)


def _same(first: Any | Failed, second: Any | Failed) -> bool:
    if isinstance(first, Failed) or isinstance(second, Failed):
        return isinstance(first, Failed) == isinstance(second, Failed)
    pairs = [*zip(tensors_in(first), tensors_in(second), strict=False)]
    return all(a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in pairs)


def _changed(before: nn.Module, after: nn.Module) -> Iterator[str]:
    """The buffers and the plain attributes that a run has changed."""
    now = dict(after.named_modules())
    for path, module in before.named_modules():
        for name, value in {**vars(module), **dict(module.named_buffers(recurse=False))}.items():
            held = getattr(now.get(path), name, None)
            if isinstance(value, torch.Tensor) and isinstance(held, torch.Tensor):
                differs = not torch.equal(value, held)
            else:
                differs = isinstance(value, bool | int | float | str) and value != held
            if differs:
                yield repr(f"{path}.{name}" if path else name)
