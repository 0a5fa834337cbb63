"""The only code that changes a module: new constants into its tensors, norms out of its tree."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from normfold.backends.torch.carried import carry
from normfold.backends.torch.chains import AFFINE
from normfold.backends.torch.computed import baked
from normfold.backends.torch.constants import exact
from normfold.backends.torch.graph import TorchGraph
from normfold.backends.torch.lift.pointwise import stored_term
from normfold.backends.torch.lift.recurrent import first_layer
from normfold.backends.torch.making import Making
from normfold.backends.torch.replacing import put, stand_in
from normfold.backends.torch.tracer import Op, Value
from normfold.backends.torch.weight_norms import normalise
from normfold.core.algebra.affine import Array
from normfold.core.laws.collapse import norm_constants
from normfold.core.views import AffineOp, Embedding, Linear, Norm, Recurrent, View
from normfold.records import RECORDS_ATTRIBUTE

LINEAR: Final = "linear"
"""The name of an operation that a norm was put behind, beside that."""
NORM: Final = "norm"
"""The name of a norm that has taken the place of one with children, beside those."""


class Snapshot:
    """What `write` may change in a module, to be put back."""

    def __init__(self, module: nn.Module) -> None:
        self._registers = [
            (register, dict(register))
            for inner in module.modules()
            for register in (vars(inner)[name] for name in ("_parameters", "_buffers", "_modules"))
        ]
        self._memory = [(tensor, tensor.data) for tensor in (*module.parameters(), *module.buffers())]
        self._attributes = vars(module)
        self._records = {name: held for name, held in self._attributes.items() if name == RECORDS_ATTRIBUTE}

    def put_back(self) -> None:
        """Let the module be what it was: the same tensors, in the same memory."""
        for register, before in self._registers:
            register.clear()
            register.update(before)
        for tensor, memory in self._memory:
            if not tensor.is_inference():
                tensor.data = memory
        self._attributes.pop(RECORDS_ATTRIBUTE, None)
        self._attributes.update(self._records)


@dataclass(frozen=True, slots=True)
class Change:
    """What happened to the names in a module's state."""

    removed: tuple[str, ...]
    added: tuple[str, ...]


def write(graph: TorchGraph, module: nn.Module) -> Change:
    """Give ``module``, of the same make as the one that ran, the constants of ``graph``, and take its norms out."""
    before = list(module.state_dict())
    places = list(graph.trace.module.named_modules(remove_duplicate=False))
    _replace(graph, module, places)
    write_constants(graph, module)
    for op in graph.normalised:
        normalise(module.get_submodule(op.call.path))
    _follow(graph, module, places)
    going = {id(op.call.module): removal for op, removal in graph.removals.items()}
    for path, norm in places:
        if id(norm) in going:
            take_out(module, path, going[id(norm)].children)
    carry(module, graph.kept)
    after = list(module.state_dict())
    return Change(tuple(n for n in before if n not in after), tuple(n for n in after if n not in before))


def _follow(graph: TorchGraph, module: nn.Module, places: Sequence[tuple[str, nn.Module]]) -> None:
    """Put norms behind the modules that they follow."""
    ops = {id(op.call.module): op for op in graph.followed}
    made: dict[int, nn.Module] = {}
    for path, old in places:
        if id(old) in ops:
            op, there = ops[id(old)], module.get_submodule(path)
            if id(old) not in made:
                norm = graph.following(op).module(there)
                made[id(old)] = nn.Sequential(OrderedDict([(LINEAR, there), (NORM, norm)]))
                made[id(old)].training = there.training
            put(module, path, made[id(old)])


def _replace(graph: TorchGraph, module: nn.Module, places: Sequence[tuple[str, nn.Module]]) -> None:
    """Put modules of other kinds in their places, before constants are written into them."""
    ops = {id(op.call.module): op for op in graph.replaced if op not in graph.removals}
    made: dict[int, nn.Module] = {}
    for path, old in places:
        if id(old) in ops:
            # One that is registered at several paths stays one.
            op, there = ops[id(old)], module.get_submodule(path)
            new = made.setdefault(id(old), _with_children(_replacement(graph, op, there), there, graph.children(op)))
            put(module, path, new)


def _with_children(new: nn.Module, old: nn.Module, children: Sequence[str]) -> nn.Module:
    """``new``, and behind it what ``old`` calls behind its norm, such as an activation."""
    if not children:
        return new
    row = nn.Sequential(OrderedDict([(NORM, new), *((name, old.get_submodule(name)) for name in children)]))
    row.training = old.training
    return row


def _replacement(graph: TorchGraph, op: Op, old: nn.Module) -> nn.Module:
    """What takes the place of ``old``, the module of ``op``."""
    view, computed = graph.changed[op], graph.computed(op)
    if op in graph.spelled:
        return Making(op, view, graph.spelled[op]).module(old)
    if computed is None or not isinstance(view, Linear):
        return stand_in(old, view)
    return baked(op, computed, bias=view.bias is not None)


def write_constants(graph: TorchGraph, module: nn.Module, biases: Mapping[Op, str] | None = None) -> None:
    """Give ``module`` the constants that the operations have in ``graph``.

    ``biases`` are the names of those that operations got which had none; by default each stands beside its weight.
    """
    given = biases or {}
    with torch.no_grad():
        for op, view in graph.changed.items():
            if op not in graph.removals and op not in graph.spelled:
                for argument, values in _constants(op, view):
                    _set(module, op, _name(graph, op, argument, given.get(op, "")), argument, values)


def _constants(op: Op, view: View) -> Iterator[tuple[str, Array]]:
    """The arguments of ``op`` that get new values."""
    writer = WRITERS.get(type(view))
    if writer is None:
        raise TypeError(f"{type(view).__name__} has no constants to write")
    return writer(op, view)


def _linear(_: Op, view: Linear) -> Iterator[tuple[str, Array]]:
    yield "weight", view.weight.native()
    if view.bias is not None:
        yield "bias", view.bias.reshape(-1) if view.bias.size > 1 else view.bias.reshape(())


def _embedding(_: Op, view: Embedding) -> Iterator[tuple[str, Array]]:
    yield "weight", view.table.native()


def _recurrent(op: Op, view: Recurrent) -> Iterator[tuple[str, Array]]:
    for (weight, bias), matrix, vector in zip(first_layer(op), view.weights, view.biases, strict=True):
        yield weight, matrix.native()
        if bias is not None and vector is not None:
            yield bias, vector


def _affine(op: Op, view: AffineOp) -> Iterator[tuple[str, Array]]:
    if op.kind == "add":
        argument, stored = stored_term(op)
        yield argument, np.broadcast_to(view.affine.shift, stored.shape)
        return
    if op.kind != AFFINE:
        yield from _batch_norm(op, view)
        return
    yield "weight", view.affine.scale
    if view.holds_shift:
        yield "bias", view.affine.shift


def _tail(op: Op, view: Norm) -> Iterator[tuple[str, Array]]:
    if view.tail is None:  # one without constants that has become another
        return
    yield "weight", _flat(op, view.tail.scale) - op.arguments.get("offset", 0.0)
    if view.holds_shift:
        yield "bias", _flat(op, view.tail.shift)


WRITERS: Mapping[type[View], Callable[[Op, Any], Iterator[tuple[str, Array]]]] = {
    Linear: _linear,
    Embedding: _embedding,
    Recurrent: _recurrent,
    AffineOp: _affine,
    Norm: _tail,
}
"""What writes the constants of each view."""


def _flat(op: Op, constant: Array) -> Array:
    """A norm's constant in the shape that it is stored in."""
    return constant.reshape(-1) if op.kind in ("group_norm", "instance_norm", "batch_norm") else constant


def _batch_norm(op: Op, view: AffineOp) -> Iterator[tuple[str, Array]]:
    """The scale and bias that make up the new map with the statistics that are there."""
    mean, variance = (exact(op.arguments[name].tensor) for name in ("running_mean", "running_var"))
    scale, bias = norm_constants(view.affine, mean, variance, float(op.arguments["eps"]))
    yield "weight", scale
    if view.holds_shift:
        yield "bias", bias


def _name(graph: TorchGraph, op: Op, argument: str, given: str) -> str:
    """The name of what is stored as ``argument`` of ``op``.

    What ``op`` reads as that only since it was traced is called ``given``, or stands beside its weight.
    """
    computed = graph.computed(op)
    if computed is not None:
        return f"{computed.path}.{argument}"
    held = op.arguments.get(argument)
    # A module that has taken another one's place has tensors that the run has not seen.
    return held.names[0] if isinstance(held, Value) else given or _beside(op.arguments["weight"], argument)


def _set(module: nn.Module, op: Op, name: str, argument: str, values: Array) -> None:
    """Write ``values`` into the stored tensor ``name``, ``argument`` of ``op``; a bias that is missing is added."""
    tensor = _stored(module, name)
    owner = module.get_submodule(name.rpartition(".")[0])
    if tensor is not None:
        own = np.require(values, requirements=("C", "W"))
        filled = torch.empty_like(tensor, requires_grad=False)
        filled.copy_(torch.from_numpy(own).reshape(tensor.shape if values.size > 1 else ()))
        _give(owner, name.rpartition(".")[2], tensor, filled)
        return
    weight = owner.get_parameter("weight")
    size = weight.shape[0]
    if op.kind.startswith("conv_transpose"):
        size = weight.shape[1] * int(op.arguments["groups"])
    bias = torch.from_numpy(np.array(np.broadcast_to(values, (size,)))).to(device=weight.device, dtype=weight.dtype)
    owner.register_parameter(argument, nn.Parameter(bias, requires_grad=weight.requires_grad))


def _give(owner: nn.Module, name: str, tensor: torch.Tensor, filled: torch.Tensor) -> None:
    """Let ``tensor``, which ``owner`` stores as ``name``, hold what ``filled`` does, in memory of its own.

    What else looks at the memory that it had, such as a view in some attribute, keeps the values that it had.
    """
    if not tensor.is_inference():
        tensor.data = filled
    elif isinstance(tensor, nn.Parameter):
        # One made in inference mode can never take other values.
        setattr(owner, name, nn.Parameter(filled, requires_grad=tensor.requires_grad))
    else:
        setattr(owner, name, filled)


def _beside(weight: Value, argument: str) -> str:
    """The name of what is stored as ``argument`` beside ``weight``."""
    path, dot, _ = weight.names[0].rpartition(".")
    return f"{path}{dot}{argument}"


def _stored(module: nn.Module, name: str) -> torch.Tensor | None:
    path, _, own = name.rpartition(".")
    tensor: torch.Tensor | None = getattr(module.get_submodule(path), own, None)
    return tensor


def take_out(module: nn.Module, path: str, children: Sequence[str] = ()) -> None:
    """Put the children of the norm at ``path`` in its place, or an Identity."""
    norm = module.get_submodule(path)
    inner = OrderedDict((child, getattr(norm, child) if child != NORM else nn.Identity()) for child in children)
    left = nn.Sequential(inner) if inner else nn.Identity()
    left.training = norm.training
    put(module, path, left)
