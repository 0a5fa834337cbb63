"""Dynamic dimensions in the forms that ``dynamic_shapes`` of ``torch.export`` takes."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from normfold.errors import UsageError, suggestion
from normfold.models.exporter.exporter import dynamic_sizes, limits, program_with, traced_with
from normfold.models.exporter.interface import Interface, Limits, check_dynamic
from normfold.models.module.example import Example

Said = Mapping[int, Any]
"""Axis of a tensor to what is said of its size: a ``Dim``, a hint such as ``Dim.AUTO``, a name, a number or None."""


def with_shapes(module: nn.Module, what: Interface, dynamic: Any, given: Any) -> Interface:
    """``what``, with the dynamic dimensions that ``given`` says, if any; ``dynamic`` is the other way to say them.

    A size that is left to PyTorch (``Dim.AUTO``, ``Dim.DYNAMIC``) is dynamic where an export of ``module`` finds it so.

    Args:
        module: what is to be exported.
        what: its inputs and outputs.
        dynamic: what was passed by input and axis.
        given: by the name of an argument, or one for each of them in order; nested as the arguments are.

    Raises:
        UsageError: ``bad-input`` where it does not fit the arguments; ``usage`` where ``dynamic`` is given, too;
            ``not-exportable``, with PyTorch's reason.
    """
    if given is None:
        return what
    if dynamic is not None:
        raise UsageError("usage", "dynamic and dynamic_shapes say the same thing.", "Pass one of the two.")
    said = _by_tensor(given, module, what.example)
    if len(said) != len(what.inputs):
        hint = 'Say them by the names of inputs: dynamic={"x": {0: "batch"}}.'
        raise UsageError("bad-input", "Arguments of classes of their own have no place in dynamic_shapes.", hint)
    named = [{axis: name for axis, one in axes.items() if (name := _name(one))} for axes in said]
    dims = [one for axes in said for one in axes.values() if _name(one)]
    whole = replace(
        what,
        dynamic={name: axes for name, axes in zip(what.inputs, named, strict=True) if axes},
        limits=_limits(dims),
    )
    check_dynamic(whole)
    hints = [{axis: one for axis, one in axes.items() if _hint(one) in ("AUTO", "DYNAMIC")} for axes in said]
    return _found(module, whole, hints) if any(hints) else whole


def _found(module: nn.Module, named: Interface, hints: list[dict[int, Any]]) -> Interface:
    """``named``, with those axes besides that ``hints`` leave to PyTorch and an export of ``module`` finds dynamic."""
    example, dims = traced_with(named)
    program = program_with(module, example, [{**own, **left} for own, left in zip(dims, hints, strict=True)])
    free = dict(zip(named.inputs, dynamic_sizes(program), strict=True))
    known = {
        free[name][axis]: symbol
        for name, axes in named.dynamic.items()
        for axis, symbol in axes.items()
        if axis in free[name]
    }
    # A size that several axes share is called after the first of them.
    left = {own: f"{name}_dim_{axis}" for name, axes in reversed(free.items()) for axis, own in reversed(axes.items())}
    names = {**left, **known}
    spans = {names[own]: span for own, span in limits(program).items() if own in names}
    return replace(
        named,
        dynamic={name: {axis: names[own] for axis, own in axes.items()} for name, axes in free.items() if axes},
        limits={**spans, **named.limits},
        hinted=frozenset(names[own] for own in names.keys() - known.keys()),
    )


def _by_tensor(given: Any, module: nn.Module, example: Example) -> list[Said]:
    """What ``given`` says of each tensor of ``example``, in their order."""
    arguments = _arguments(module, example)
    if isinstance(given, torch.export.ShapesCollection):
        given = given.dynamic_shapes(module, example.args, dict(example.kwargs))
    if isinstance(given, Mapping):
        for name in given:
            if name not in arguments:
                hint = suggestion(str(name), arguments) or f"The arguments: {', '.join(arguments)}."
                raise UsageError("bad-input", f"There is no argument {name!r}.", hint)
    elif isinstance(given, tuple | list) and len(given) == len(arguments):
        given = dict(zip(arguments, given, strict=True))
    else:
        message = f"dynamic_shapes is neither by name nor one for each of {len(arguments)} arguments."
        raise UsageError("bad-input", message, f"The arguments: {', '.join(arguments)}.")
    return [axes for name, value in arguments.items() for axes in _leaves(value, given.get(name), name)]


def _arguments(module: nn.Module, example: Example) -> dict[str, Any]:
    """The arguments of the call by name; those of ``*args`` are one."""
    parameters = inspect.signature(module.forward).parameters.values()
    plain = [one.name for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    arguments = dict(zip(plain, example.args, strict=False))
    rest = next((one.name for one in parameters if one.kind is one.VAR_POSITIONAL), "")
    if len(example.args) > len(plain):
        arguments[rest] = tuple(example.args[len(plain) :])
    return {**arguments, **example.kwargs}


def _leaves(value: Any, given: Any, where: str) -> Iterator[Said]:
    """What ``given`` says of each tensor in ``value``, the argument or the part of it that is called ``where``."""
    if isinstance(value, torch.Tensor):
        yield dict(_axes(value, given, where))
        return
    if not isinstance(value, Mapping | tuple | list):
        if given is not None:
            raise UsageError("bad-input", f"{where} is no tensor, so no size of it is dynamic: say None.")
        return
    parts = dict(value) if isinstance(value, Mapping) else dict(enumerate(value))
    said = given
    if given is None:
        said = {}
    elif isinstance(given, tuple | list) and not isinstance(value, Mapping) and len(given) == len(value):
        said = dict(enumerate(given))
    elif not isinstance(given, Mapping) or not isinstance(value, Mapping) or not given.keys() <= parts.keys():
        raise UsageError("bad-input", f"The dynamic shapes of {where} are not nested as it is: {len(parts)} parts.")
    for key, part in parts.items():
        yield from _leaves(part, said.get(key), f"{where}[{key!r}]")


def _axes(tensor: torch.Tensor, given: Any, where: str) -> Iterator[tuple[int, Any]]:
    """Each axis of ``tensor`` of which something is said, counted from the first, and what."""
    if isinstance(given, tuple | list):
        if len(given) != tensor.ndim:
            raise UsageError("bad-input", f"{where} has {tensor.ndim} axes, and dynamic_shapes says {len(given)}.")
        given = dict(enumerate(given))
    if not isinstance(given or {}, Mapping):
        hint = "It is None, a size for each axis, or sizes by axis, as in {0: Dim.AUTO}."
        raise UsageError("bad-input", f"The dynamic shape of {where} is {given!r}.", hint)
    for axis, one in (given or {}).items():
        if not isinstance(axis, int) or not -tensor.ndim <= axis < tensor.ndim:
            raise UsageError("bad-input", f"{where} has no axis {axis!r}: it has {tensor.ndim}.")
        size = tensor.shape[axis]
        _check_size(one, size, f"axis {axis} of {where}")
        yield axis % tensor.ndim, one


def _check_size(said: Any, size: int, where: str) -> None:
    """Raise `UsageError` where ``said`` is nothing that can be said of a size, or allows other sizes than ``size``."""
    hint = "A size is a Dim, Dim.AUTO, Dim.DYNAMIC, Dim.STATIC, a name, a number or None."
    if getattr(said, "root", None) is not None:
        message = f"The size of {where}, {said.__name__}, is computed from another one."
        raise UsageError("bad-input", message, "Say Dim.AUTO there, or give it a name of its own.")
    if isinstance(said, int) and not isinstance(said, bool):
        if said != size:
            raise UsageError("bad-input", f"The size of {where} is {size} in the example, and not {said}.")
    elif said is not None and not _name(said) and not _hint(said):
        raise UsageError("bad-input", f"The size of {where} is {said!r}.", hint)
    least, most = _span(said)
    if size < least or (most is not None and size > most):
        limit = f"from {least} on" if most is None else f"{least} to {most}"
        raise UsageError("bad-input", f"The size of {where} is {size} in the example, and is to be {limit}.")


def _name(said: Any) -> str:
    """The name of a size; empty where it has none."""
    return said if isinstance(said, str) else str(said.__name__) if isinstance(said, torch.export.Dim) else ""


def _hint(said: Any) -> str:
    """``AUTO``, ``DYNAMIC`` or ``STATIC``; empty where it is no such hint."""
    return str(getattr(getattr(said, "type", None), "name", ""))


def _span(said: Any) -> Limits:
    least, most = (getattr(said, end, None) for end in ("min", "max"))
    return (least if isinstance(least, int) else 0), (most if isinstance(most, int) else None)


def _limits(dims: list[Any]) -> dict[str, Limits]:
    """The sizes that each name allows: those that all of ``dims`` do which have it."""
    out: dict[str, Limits] = {}
    for one in dims:
        least, most = _span(one)
        before = out.get(_name(one), (0, None))
        ends = [end for end in (before[1], most) if end is not None]
        out[_name(one)] = max(before[0], least), min(ends, default=None)
    return out
