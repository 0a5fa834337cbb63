"""What must hold in the module tree around an operation before its constants may change or it may go."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Final

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from normfold.backends.torch.chains import AFFINE, MIXED, TANH
from normfold.backends.torch.schemas import TENSORS
from normfold.backends.torch.tracer import Call, Op, Trace, Value
from normfold.core.premises import (
    CALLED_ONCE,
    CONSTANT,
    FLOATING_POINT,
    NEEDS_STRUCTURE,
    NO_HOOKS,
    PARAMETER_UNTIED,
    PLAIN_NORM,
)
from normfold.core.views import NotLifted
from normfold.records import Refusal

PLAIN: Final = frozenset(
    {
        nn.BatchNorm1d,
        nn.BatchNorm2d,
        nn.BatchNorm3d,
        nn.SyncBatchNorm,
        nn.InstanceNorm1d,
        nn.InstanceNorm2d,
        nn.InstanceNorm3d,
    }
)
"""Modules that do nothing but normalise."""
FLOATS: Final = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})
"""Types whose constants are folded."""
WHOLE: Final = frozenset({AFFINE, MIXED, TANH})
"""Operations that stand for all that a module does."""


@dataclass(frozen=True)
class Removal:
    """How a norm leaves the module tree: its module makes way for its ``children``, called one after another."""

    module: nn.Module
    children: tuple[str, ...]


class ModuleTree:
    """The module tree as one run has shown it.

    ``gives_biases`` says whether a linear operation can be given a bias, whatever its module's forward does.
    """

    gives_biases = False

    def __init__(self, trace: Trace, shared: Mapping[str, str]) -> None:
        self.trace = trace
        self.shared = shared
        self.calls = Counter(id(call.module) for call in trace.calls)
        self._removals: dict[Op, Removal | Refusal] = {}

    @cached_property
    def readers(self) -> dict[Value, list[Op]]:
        """The operations that read each value, in this run and for stored ones in others."""
        out = {value: list(ops) for value, ops in self.trace.elsewhere.items()}
        for op in self.trace.ops:
            for value in op.inputs:
                out.setdefault(value, []).append(op)
        return out

    @cached_property
    def paths(self) -> dict[int, list[str]]:
        """Every place at which a module is registered, by the module's identity."""
        out: dict[int, list[str]] = {}
        for path, module in self.trace.module.named_modules(remove_duplicate=False):
            out.setdefault(id(module), []).append(path)
        return out

    def label(self, op: Op) -> str:
        """What to call ``op`` when talking to a user."""
        path = op.call.path
        if not path:
            return f"{op.kind} in the module's own forward"
        return f"{op.call.kind if self.speaks_for_module(op) else op.kind} {path!r}"

    def speaks_for_module(self, op: Op) -> bool:
        """Whether ``op`` is what its module is there for: its only operation, or the only one with stored constants.

        A convolution does where its module computes those from what it stores, and what a whole module is read as.
        """
        if op.kind in WHOLE:
            return True
        own = [item for item in op.call.items if isinstance(item, Op)]
        only = own == [op] or [item for item in own if any(value.names for value in item.inputs)] == [op]
        return only or op in self.trace.computed

    def own(self, op: Op, role: str, argument: str) -> torch.Tensor:
        """The stored tensor that is ``argument`` of ``op`` and of nobody else, so that it may change.

        Raises:
            NotLifted: it is computed, shared, changed during the run or of a type that is not folded.
        """
        value, label = op.arguments[argument], self.label(op)
        computed = self.trace.computed.get(op)
        if isinstance(computed, Refusal):
            raise NotLifted(computed.premise, computed.because)
        if computed is not None and isinstance(value, Value) and value.tensor is not None:
            sources = (source for step in computed.made for source in step.inputs)
            other = next((reader for source in sources for reader in self.trace.elsewhere.get(source, ())), None)
            if other is not None:
                raise NotLifted(CALLED_ONCE, f"what {role} of {label} comes from is also read by {self.label(other)}")
            # Another module takes the place of this one, with tensors of its own.
            return value.tensor
        if not isinstance(value, Value) or value.tensor is None or not value.names:
            because = "it is computed at each call (a parametrization?); bake it first, as with remove_parametrizations"
            raise NotLifted(CONSTANT, f"{role} of {label} is not a stored tensor of the module: {because}")
        if value.memory.written >= 0:
            raise NotLifted(CONSTANT, f"{role} of {label} is changed during the call")
        if type(value.tensor) not in TENSORS:
            raise NotLifted(
                CONSTANT, f"{role} of {label} is a {type(value.tensor).__name__}, which stores its values otherwise"
            )
        if value.tensor.dtype not in FLOATS:
            raise NotLifted(FLOATING_POINT, f"{role} of {label} is {value.tensor.dtype}, not a floating type")
        self._refuse_sharing(op, role, value)
        self._refuse_hooks(op, value)
        return value.tensor

    def _refuse_sharing(self, op: Op, role: str, value: Value) -> None:
        label = self.label(op)
        shared = [*value.names[1:], *(self.shared[name] for name in value.names if name in self.shared)]
        if shared:
            own = op.call.path.partition("@")[0]
            other = next((name for name in (*value.names, *shared) if name.rpartition(".")[0] != own), shared[0])
            raise NotLifted(PARAMETER_UNTIED, f"{role} of {label} is in the same memory as {other!r}")
        owner = self.owner(value)
        if self.calls[id(owner)] > 1:
            raise NotLifted(CALLED_ONCE, f"{label} is called {self.calls[id(owner)]} times with the same weight")
        parts = (op, *op.arguments.get("steps", ()))
        others = [reader for reader in self.readers[value] if reader not in parts]
        if others:
            raise NotLifted(CALLED_ONCE, f"{role} of {label} is also read by {self.label(others[0])}")

    def _refuse_hooks(self, op: Op, value: Value) -> None:
        if any(self._is_watched(module) for module in (op.call.module, self.owner(value))):
            raise NotLifted(NO_HOOKS, f"{self.label(op)} has a hook, which would see other values")

    def _is_watched(self, module: nn.Module) -> bool:
        return has_hooks(module)

    def owner(self, value: Value) -> nn.Module:
        """The module that a stored value belongs to."""
        return self.trace.module.get_submodule(value.names[0].rpartition(".")[0])

    def removal(self, op: Op) -> Removal:
        """How the norm ``op`` leaves the module tree.

        Raises:
            NotLifted: it cannot.
        """
        if op not in self._removals:
            try:
                self._removals[op] = self._removal(op)
            except NotLifted as reason:
                self._removals[op] = reason.refusal
        found = self._removals[op]
        if isinstance(found, Refusal):
            raise NotLifted(found.premise, found.because)
        return found

    def _removal(self, op: Op) -> Removal:
        call, module, label = op.call, op.call.module, self.label(op)
        if not call.path or id(module) not in self.paths:
            raise NotLifted(NEEDS_STRUCTURE, f"{label} is not a module of its own, so nothing can take its place")
        if self.calls[id(module)] > 1:
            raise NotLifted(CALLED_ONCE, f"{label} is called {self.calls[id(module)]} times, with different inputs")
        if has_hooks(module):
            raise NotLifted(NO_HOOKS, f"{label} has a hook, which would go with it")
        if not _is_chain(call, op):
            what = "does more than normalise and then call its children one after another"
            raise NotLifted(PLAIN_NORM, f"{label} is a {call.kind}, which {what}")
        outside = next(self._outside_readers(module, call), None)
        if outside is not None:
            raise NotLifted(PARAMETER_UNTIED, f"{outside} reads the constants of {label}, too")
        return Removal(module, tuple(_child_name(module, item.module) for item in call.items if isinstance(item, Call)))

    def _outside_readers(self, module: nn.Module, call: Call) -> Iterator[str]:
        own = chain(module.named_parameters(recurse=False), module.named_buffers(recurse=False))
        prefix = self.paths[id(module)][0]
        for name, _ in own:
            for reader in self.readers.get(self.trace.stored[f"{prefix}.{name}"], ()):
                if reader.call is not call:
                    yield self.label(reader)


def has_hooks(module: nn.Module) -> bool:
    """Whether somebody watches, or changes, what goes in and out of ``module``."""
    slots = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(module, slot, None) for slot in slots)


def _child_name(module: nn.Module, child: nn.Module) -> str:
    return next((name for name, found in module.named_children() if found is child), "")


def _is_chain(call: Call, op: Op) -> bool:
    """Whether ``call`` is ``op`` on its one input, and then each of its module's children in a row."""
    module, inner = call.module, [item for item in call.items if isinstance(item, Call)]
    if [item for item in call.items if isinstance(item, Op) and _moves_data(item)] != [op]:
        return False
    if inner and call.items.index(op) > call.items.index(inner[0]):
        return False
    if inner and not (isinstance(module, _NormBase) or type(module).__name__.startswith("Frozen")):
        return False
    if type(module) not in PLAIN and call.arguments != (op.arguments["input"],):
        return False
    names = [_child_name(module, child.module) for child in inner]
    if sorted(names) != sorted(name for name, _ in module.named_children()):
        return False
    value = op.outputs[0]
    for child in inner:
        if child.arguments != (value,) or not isinstance(child.result, Value):
            return False
        value = child.result
    return call.result is value


def _moves_data(op: Op) -> bool:
    return any(value.tensor is None for value in op.outputs)
