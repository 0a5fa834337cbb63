"""What a module is called with, what it returns, and tensors as arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import ml_dtypes
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from normfold.errors import UsageError
from normfold.runtime import Failed

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Example:
    """The arguments of one call."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def of(inputs: Any) -> Example:
        """A tuple or list of positional arguments, a mapping of named ones, or the only argument itself."""
        if isinstance(inputs, Example):
            return inputs
        if inputs is None:
            hint = "Pass them as the second argument: normfold.fold(module, (x,))."
            raise UsageError("usage", "A PyTorch module needs example inputs to be traced.", hint)
        if isinstance(inputs, Mapping) and all(isinstance(name, str) for name in inputs):
            return Example((), dict(inputs))
        return Example(tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,))

    def tensors(self) -> list[torch.Tensor]:
        """Every tensor in the arguments."""
        return [leaf for leaf in tree_leaves((self.args, self.kwargs)) if isinstance(leaf, torch.Tensor)]

    def twice(self) -> Example | None:
        """The same with a batch of twice the size; ``None`` where a tensor has no axes."""
        if not all(tensor.ndim for tensor in self.tensors()):
            return None
        return self.filled([torch.cat([tensor, tensor]) for tensor in self.tensors()])

    def filled(self, tensors: Sequence[torch.Tensor]) -> Example:
        """The same with other tensors."""
        leaves, layout = tree_flatten((self.args, self.kwargs))
        new = iter(tensors)
        args, kwargs = tree_unflatten(
            [next(new) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves], layout
        )
        return Example(args, kwargs)


def tensors_in(result: Any) -> Iterator[torch.Tensor]:
    """The tensors in what a module returned, those in its dataclasses, too."""
    return (tensor for _, tensor in named_tensors(result))


def named_tensors(result: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], torch.Tensor]]:
    """The same, each with the keys, field names and indices that lead to it."""
    if isinstance(result, torch.Tensor):
        yield path, result
        return
    for name, inner in _members(result):
        yield from named_tensors(inner, (*path, name))


def _members(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        yield from ((str(key), inner) for key, inner in value.items())
    elif is_dataclass(value) and not isinstance(value, type):
        yield from ((one.name, getattr(value, one.name)) for one in fields(value))
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        yield from zip(value._fields, value, strict=True)
    else:
        leaves = tree_leaves(value, is_leaf=lambda inner: inner is not value)
        yield from ((str(k), inner) for k, inner in enumerate(leaves) if inner is not value)


def to_array(tensor: torch.Tensor) -> Array:
    """The values of ``tensor``."""
    tensor = tensor.detach().cpu().resolve_conj().resolve_neg()
    if tensor.dtype == torch.bfloat16:
        return np.asarray(tensor.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16))
    return np.asarray(tensor.numpy())


def to_tensor(array: Array) -> torch.Tensor:
    """A tensor of its own with the values of ``array``."""
    plain = array.view(np.int16) if array.dtype == ml_dtypes.bfloat16 else array
    tensor = torch.from_numpy(np.array(plain))
    return tensor.view(torch.bfloat16) if array.dtype == ml_dtypes.bfloat16 else tensor


def tensor_like(array: Array, like: torch.Tensor) -> torch.Tensor:
    """``array`` as a tensor of the type, in the layout and on the device of ``like``."""
    return torch.empty_like(like, requires_grad=False).copy_(to_tensor(array))


def call(module: nn.Module, example: Example, *, gradients: bool = False) -> Any | Failed:
    """What ``module`` returns for ``example``, of which it gets copies; a `Failed` where it raises."""
    own = example.filled([tensor.detach().clone() for tensor in example.tensors()])
    try:
        with torch.set_grad_enabled(gradients):
            result = module(*own.args, **own.kwargs)
    except Exception as error:  # noqa: BLE001 - whatever a user's own code raises is an answer about these inputs
        return Failed("run", " ".join(str(error).split()) or type(error).__name__)
    unread = [type(one).__name__ for one in tensors_in(result) if _wraps_others(one)]
    return Failed("unsupported", f"the module returns a {unread[0]}, whose values cannot be read") if unread else result


def _wraps_others(tensor: Any) -> bool:
    return is_traceable_wrapper_subclass(tensor)
