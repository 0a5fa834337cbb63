"""A copy of a module to work on, of one that can be worked on."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from normfold.backends.torch import copied
from normfold.errors import UsageError


def duplicate(module: nn.Module) -> nn.Module:
    """A copy of ``module``, so that running it leaves no trace in the user's own.

    Raises:
        UsageError: ``meta-tensors`` where it has no weights; ``bad-input`` where its operations cannot be seen, or it
            cannot be copied.
    """
    check(module)
    try:
        return copied(module)
    except Exception as error:
        # A class's own __deepcopy__, or a tensor that is the result of a computation.
        hint = "A weight that is computed (torch.nn.utils.weight_norm) has to be baked first."
        raise UsageError("bad-input", f"The module cannot be copied: {error}", hint) from error


def replica(module: nn.Module) -> nn.Module:
    """A copy of ``module`` with a state of its own and the same parameters: what a run changes stays in the copy."""
    shared = {id(parameter): parameter for parameter in module.parameters()}
    return copied(module, shared)


def check(module: nn.Module) -> None:
    """Raise `UsageError` for modules that have no weights, or whose operations cannot be seen."""
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if is_lazy(tensor):
            raise UsageError("bad-input", f"{name} is not initialised: run the module once first.")
        if tensor.is_meta:
            hint = "Load the weights first: module.to_empty(device='cpu'), then load_state_dict."
            raise UsageError("meta-tensors", f"{name} is on the meta device: it has a shape, but no values.", hint)
    for name, inner in module.named_modules():
        if isinstance(inner, torch.jit.ScriptModule):
            hint = "Fold the module that it was made from, then script or trace the result."
            raise UsageError("bad-input", f"{name or 'The module'} is compiled by torch.jit.", hint)
        if hasattr(inner, "_orig_mod"):
            hint = "Fold first, then call torch.compile on the result."
            raise UsageError("bad-input", f"{name or 'The module'} is compiled by torch.compile.", hint)
