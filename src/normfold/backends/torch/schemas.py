"""What PyTorch's schemas say of an operation: its arguments by name, what it looks at, and what it makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

TENSORS: Final = frozenset({torch.Tensor, nn.Parameter, nn.Buffer})
"""Classes of tensors that hold what they say, and do what operations do: others quantise or distribute it."""

SIZED_BY_VALUES: Final = frozenset(
    {"aten.argwhere.default", "aten.nonzero_numpy.default", "aten.where.default", "torchvision.nms.default"}
)
"""Operations that make as many elements as their inputs' values say, without PyTorch's mark for it."""

SHAPES: Final = {
    **dict.fromkeys(("reshape_as", "view_as", "expand_as", "type_as", "resize_as"), "other"),
    **dict.fromkeys(("zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like"), "self"),
    **dict.fromkeys(("new_zeros", "new_ones", "new_empty", "new_full"), "self"),
}
"""Operations that look at the shape and type of an argument, not at its elements."""

SIZES: Final = frozenset({"size", "sym_size", "dim", "numel", "sym_numel", "stride", "sym_stride", "is_floating_point"})
"""What scripted functions ask of a tensor by an operation: they learn nothing of its elements."""

ROLES: Final = {"addmm": {"self": "bias", "mat1": "input", "mat2": "weight"}, "expand": {"self": "weight"}}
"""Arguments by what they are, where their names do not say so."""


def sized_by_values(function: Any, given: Mapping[str, Any]) -> bool:
    """Whether the sizes of what an operation makes depend on the elements that it reads."""
    if "indices" in given and function._schema.name == "aten::index":  # noqa: SLF001
        indices = (leaf for leaf in tree_leaves(given["indices"]) if isinstance(leaf, torch.Tensor))
        return any(leaf.dtype in (torch.bool, torch.uint8) for leaf in indices)
    return torch.Tag.dynamic_output_shape in function.tags or str(function) in SIZED_BY_VALUES


def flat(given: dict[str, Any]) -> dict[str, Any]:
    """``given``, each weight of a recurrent operation, which takes them as a list, as an argument of its own."""
    weights = given.get("params")
    if not isinstance(weights, list | tuple):
        return given
    others = {name: value for name, value in given.items() if name != "params"}
    return others | {f"params.{k}": weight for k, weight in enumerate(weights)}


def bound(schema: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Every argument of an operation by name."""
    given = {argument.name: argument.default_value for argument in schema.arguments if argument.has_default_value()}
    given |= {argument.name: value for argument, value in zip(schema.arguments, args, strict=False)}
    return given | dict(kwargs)
