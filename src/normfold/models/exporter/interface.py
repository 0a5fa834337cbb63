"""What an exported model takes and gives: names, dynamic dimensions, and a module of tensors alone."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import nn

from normfold.errors import UsageError
from normfold.models.module.behaviour import not_running
from normfold.models.module.duplicate import replica
from normfold.models.module.example import Example, call, named_tensors, tensors_in
from normfold.runtime import Failed

Dynamic = Mapping[str, Mapping[int, str]]
"""Input name to axis to the name of its dynamic size; equal names are equal sizes."""
Limits = tuple[int, int | None]
"""The smallest and the largest size that a dynamic dimension may have."""

SMALLEST: Final = 2
"""Size that a dynamic dimension has while it is traced: PyTorch takes 0 and 1 for fixed."""


@dataclass(frozen=True, slots=True)
class Interface:
    """The inputs and outputs of an export."""

    example: Example
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    dynamic: Dynamic
    limits: Mapping[str, Limits] = field(default_factory=dict)
    """Smallest and largest size by name, where not every size is allowed."""
    hinted: frozenset[str] = frozenset()
    """Names of sizes that are left to PyTorch, which found them dynamic."""

    def sizes(self) -> dict[str, int]:
        """Name of each dynamic size to the size that it has in the example."""
        return {
            symbol: self.tensor(name).shape[axis]
            for name, axes in self.dynamic.items()
            for axis, symbol in axes.items()
        }

    def tensor(self, name: str) -> torch.Tensor:
        """The example of one input."""
        return self.example.tensors()[self.inputs.index(name)]

    def resized(self, sizes: Mapping[str, int]) -> Example:
        """The example with other dynamic sizes: what there is, repeated or cut."""
        tensors = []
        for name, example in zip(self.inputs, self.example.tensors(), strict=True):
            resized = example
            for axis, symbol in self.dynamic.get(name, {}).items():
                there = example.shape[axis]
                places = torch.arange(sizes.get(symbol, there), device=example.device) % there
                resized = resized.index_select(axis, places)
            tensors.append(resized)
        return self.example.filled(tensors)


def interface(
    module: nn.Module,
    example: Example,
    dynamic: Dynamic,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    *,
    mutable: bool = False,
) -> Interface:
    """Run ``module`` once, and name what goes in and out.

    Inputs are called as the arguments of ``forward``, outputs as the keys or fields of the result; where there are
    none, ``output``. Parts of nested structures are joined with ``_``. With ``mutable`` it may change its buffers.

    Raises:
        UsageError: ``bad-input`` where the module does not run, or names or axes do not fit; ``not-traceable`` where
            it runs with gradients only; ``not-exportable`` where it changes itself when it is called.
    """
    before = _buffers(module)
    result = call(replica(module) if mutable else module, example)
    if isinstance(result, Failed):
        raise not_running(module, example, result.message)
    changed = [name for name, state in _buffers(module).items() if before.get(name) != state]
    if changed:
        hint = "Pass it in and return it instead."
        raise UsageError("not-exportable", f"The module changes its buffer {changed[0]!r} when it is called.", hint)
    found = _distinct(
        "_".join(path) if path and not path[0].isdigit() else "_".join(("output", *path))
        for path, _ in named_tensors(result)
    )
    if not found:
        raise UsageError("bad-input", "The module returns no tensors, so there is nothing to export.")
    inputs = _given_or("input", input_names, _input_names(module, example))
    whole = Interface(example, inputs, _given_or("output", output_names, found), dynamic)
    clash = sorted(set(whole.inputs) & set(whole.outputs))
    if clash and output_names is None:
        renamed = tuple(f"{name}_out" if name in clash else name for name in whole.outputs)
        whole = Interface(example, inputs, renamed, dynamic)
    elif clash:
        raise UsageError("usage", f"{clash[0]!r} names an input and an output.")
    check_dynamic(whole)
    return whole


class Flat(nn.Module):
    """``module`` as a function of tensors alone, which returns a tuple of tensors."""

    def __init__(self, module: nn.Module, example: Example) -> None:
        super().__init__()
        self.module = module
        self._example = example
        self.eval()

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Call the module with ``tensors`` in the places of the example's."""
        example = self._example.filled(tensors)
        return tuple(tensors_in(self.module(*example.args, **example.kwargs)))


def _buffers(module: nn.Module) -> dict[str, tuple[int, int]]:
    """What tells whether a buffer was replaced, or changed in place."""
    return {name: (id(buffer), buffer._version) for name, buffer in module.named_buffers()}  # noqa: SLF001


def _input_names(module: nn.Module, example: Example) -> tuple[str, ...]:
    parameters = list(inspect.signature(module.forward).parameters.values())
    heads = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    rest = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), "input")
    heads += [f"{rest}_{k}" for k in range(len(example.args) - len(heads))]
    arguments: dict[str, Any] = {**dict(zip(heads, example.args, strict=False)), **example.kwargs}
    names = _distinct("_".join(path) for path, _ in named_tensors(arguments))
    # A dataclass among the arguments is no tree to PyTorch, which then sees fewer tensors.
    count = len(example.tensors())
    return names if len(names) == count else tuple(f"input_{k}" for k in range(count))


def _distinct(names: Iterable[str]) -> tuple[str, ...]:
    def counted() -> Iterator[str]:
        seen: Counter[str] = Counter()
        for name in names:
            seen[name] += 1
            yield name if seen[name] == 1 else f"{name}_{seen[name]}"

    return tuple(counted())


def _given_or(what: str, given: Sequence[str] | None, found: tuple[str, ...]) -> tuple[str, ...]:
    if given is None:
        return found
    if len(given) != len(found) or len(set(given)) != len(given):
        raise UsageError("usage", f"{len(found)} different {what} names are needed, for {', '.join(found)}.")
    return tuple(given)


def check_dynamic(whole: Interface) -> None:
    """Raise `UsageError` ``bad-input`` where the dynamic dimensions do not fit the inputs."""
    sizes: dict[str, int] = {}
    for name, axes in whole.dynamic.items():
        if name not in whole.inputs:
            raise UsageError("bad-input", f"There is no input {name!r}.", f"The inputs: {', '.join(whole.inputs)}.")
        shape = whole.tensor(name).shape
        for axis, symbol in axes.items():
            if not 0 <= axis < len(shape):
                raise UsageError("bad-input", f"Input {name!r} has no axis {axis}: it has {len(shape)}.")
            if not symbol.isidentifier():
                raise UsageError("bad-input", f"{symbol!r} cannot name a dimension: it is not an identifier.")
            if sizes.setdefault(symbol, shape[axis]) != shape[axis]:
                raise UsageError("bad-input", f"The dimension {symbol!r} is both {sizes[symbol]} and {shape[axis]}.")
