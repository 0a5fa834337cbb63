"""A module named on the command line: the factory that makes it, its weights, inputs to run it on."""

from __future__ import annotations

import importlib
import inspect
import os
import pickle
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from normfold.errors import UsageError
from normfold.models.module.packages import needs

if TYPE_CHECKING:
    import torch
    from torch import nn

    from normfold.models.module.example import Example

Array = NDArray[Any]
REFERENCE: Final = re.compile(r"(?P<package>[^\W\d]\w*(?:\.[^\W\d]\w*)*):(?P<factory>[^\W\d]\w*(?:\.[^\W\d]\w*)*)")
PICKLED: Final = frozenset({".pth", ".pt", ".bin", ".ckpt"})
RandomInput = tuple[str, tuple[int, ...], str, int]
"""An input to generate: its name, its shape, its type, and the end of the range of its integers."""

WRAPPERS: Final = ("state_dict", "model")
"""Names under which training scripts put the state dict into a checkpoint."""
LISTED: Final = 3
"""Names of weights given as examples in an error."""


def load(reference: str, weights: str | None = None) -> nn.Module:
    """The module that ``reference`` makes, in evaluation mode, with the weights of the file ``weights``.

    The current folder can be imported from, as with ``python -m``.

    Raises:
        UsageError: ``bad-module``, ``bad-weights``, ``unsafe-weights``.
        EnvironmentUnavailableError: PyTorch is not installed.
    """
    needs("torch")
    found = REFERENCE.fullmatch(reference)
    if found is None:
        raise UsageError("bad-module", f"{reference!r} is not of the form package.module:factory.")
    module = _made(reference, _attribute(_imported(found["package"]), found["factory"], reference))
    if weights is not None:
        _fill(module, weights)
    return module.eval()


def _imported(package: str) -> Any:
    folder = os.getcwd()  # noqa: PTH109 - an entry of sys.path is text
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        return importlib.import_module(package)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{package}.".startswith(f"{error.name}."):
            hint = "Name it as for 'python -m', from the folder that holds it."
            raise UsageError("bad-module", f"There is no Python module {error.name}.", hint) from error
        raise UsageError("bad-module", f"{package} cannot be imported: {_words(error)}") from error


def _attribute(module: Any, path: str, reference: str) -> Any:
    for name in path.split("."):
        if not hasattr(module, name):
            raise UsageError("bad-module", f"{reference}: {getattr(module, '__name__', module)} has no {name!r}.")
        module = getattr(module, name)
    return module


def _made(reference: str, factory: Any) -> nn.Module:
    from torch import nn

    made = factory
    if not isinstance(factory, nn.Module):
        made = _called(reference, factory)
    if not isinstance(made, nn.Module):
        raise UsageError(
            "bad-module", f"{reference} returns an object of type {type(made).__name__}, not an nn.Module."
        )
    return made


def _called(reference: str, factory: Any) -> Any:
    if not callable(factory):
        hint = "Name a function or class that returns the module, or the module itself."
        raise UsageError(
            "bad-module", f"{reference} is an object of type {type(factory).__name__}, not an nn.Module.", hint
        )
    needed = _required(factory)
    if needed:
        hint = "Write a function without arguments that returns the module, and name that."
        raise UsageError("bad-module", f"{reference} needs arguments: {', '.join(needed)}.", hint)
    try:
        return factory()
    except (Exception, SystemExit) as error:
        raise UsageError("bad-module", f"{reference} fails: {_words(error)}") from error


def _required(factory: Callable[..., Any]) -> list[str]:
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return []
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [one.name for one in parameters if one.default is one.empty and one.kind not in variadic]


def _fill(module: nn.Module, weights: str) -> None:
    from normfold.models.module.save import TAKEN_OUT, restore

    metadata, state = _state(Path(weights))
    if TAKEN_OUT in metadata:
        restore(module, weights)
        return
    # Tensors without values have nothing that could be overwritten.
    assign = any(tensor.is_meta for tensor in (*module.parameters(), *module.buffers()))
    try:
        missing, unexpected = module.load_state_dict(state, strict=False, assign=assign)
    except RuntimeError as error:
        raise UsageError("bad-weights", f"{weights} does not fit the module: {_words(error)}") from error
    wrong = [f"{_some(names)} {what}" for names, what in ((missing, "missing"), (unexpected, "unexpected")) if names]
    if wrong:
        raise UsageError("bad-weights", f"{weights} does not fit the module: {'; '.join(wrong)}.")


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def _state(path: Path) -> tuple[Mapping[str, str], Mapping[str, torch.Tensor]]:
    """The metadata and the tensors in a file of weights."""
    if not path.is_file():
        raise UsageError("bad-weights", f"There is no file {path}.")
    if path.suffix == ".safetensors":
        from normfold.models.module.save import read_state

        return read_state(path)
    if path.suffix in PICKLED:
        return {}, _unwrapped(path, _pickled(path))
    hint = f"Name a .safetensors file, or one that ends in {', '.join(sorted(PICKLED))}."
    raise UsageError("bad-weights", f"{path} is not a weights file.", hint)


def _pickled(path: Path) -> Any:
    """A checkpoint of tensors; never one that has to run code."""
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _unsafe(path, "it names code to run") from error
    except RuntimeError as error:
        if "TorchScript" in str(error):
            raise _unsafe(path, "it is a TorchScript program") from error
        raise UsageError("bad-weights", f"{path} cannot be read: {_words(error)}") from error
    except (OSError, EOFError, ValueError) as error:
        raise UsageError("bad-weights", f"{path} cannot be read: {_words(error)}") from error


def _unsafe(path: Path, because: str) -> UsageError:
    hint = "Where you trust it, load it yourself and save its tensors: safetensors.torch.save_file(state_dict, file)."
    return UsageError("unsafe-weights", f"{path} holds more than tensors, so it is not loaded: {because}.", hint)


def _unwrapped(path: Path, loaded: Any) -> Mapping[str, torch.Tensor]:
    import torch

    inner = [loaded] if isinstance(loaded, Mapping) else []
    inner += [held for key in WRAPPERS if inner and isinstance(held := loaded.get(key), Mapping)]
    for state in inner:
        if state and all(isinstance(name, str) for name in state) and torch.Tensor in map(_kind, state.values()):
            return state
    hint = "Save one with torch.save(module.state_dict(), file)."
    raise UsageError("bad-weights", f"{path} holds no state dict.", hint)


def _kind(value: Any) -> type:
    import torch

    return torch.Tensor if isinstance(value, torch.Tensor) else type(value)


def generated(wanted: Iterable[RandomInput], given: Mapping[str, Array], seed: int) -> dict[str, torch.Tensor]:
    """Tensors by name: those of ``given``, and standard normal values, integers or booleans for ``wanted``.

    Raises:
        UsageError: ``bad-input`` for arrays that are no tensors, and for sizes beyond this machine's memory.
    """
    try:
        return _tensors(wanted, given, seed)
    except (TypeError, RuntimeError, MemoryError) as error:
        raise UsageError("bad-input", f"A random input cannot be made: {_words(error)}") from error


def _tensors(wanted: Iterable[RandomInput], given: Mapping[str, Array], seed: int) -> dict[str, torch.Tensor]:
    import torch

    from normfold.models.module.example import to_tensor

    random = torch.Generator().manual_seed(seed)
    tensors = {name: to_tensor(np.asarray(array)) for name, array in given.items()}
    for name, shape, kind, below in wanted:
        dtype = getattr(torch, kind)
        floating = dtype.is_floating_point
        made = torch.randn(shape, generator=random) if floating else torch.randint(0, below, shape, generator=random)
        tensors[name] = made.to(dtype)
    return tensors


def called_with(module: nn.Module, tensors: Mapping[str, torch.Tensor]) -> tuple[Example, tuple[str, ...] | None]:
    """``tensors`` as the arguments of those names; one after the other where ``module`` knows none of the names.

    The names come with them where they are not those of the arguments.

    Raises:
        UsageError: ``bad-input`` where it knows only some of the names.
    """
    from normfold.models.module.example import Example

    signature = inspect.signature(module.forward)
    known = {
        name for name, one in signature.parameters.items() if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
    }
    unknown = [name for name in tensors if name not in known]
    takes_any = any(one.kind is one.VAR_KEYWORD for one in signature.parameters.values())
    if not unknown or (takes_any and len(unknown) < len(tensors)):
        bound = signature.bind_partial(**tensors)
        return Example(bound.args, bound.kwargs), None
    if len(unknown) < len(tensors):
        hint = f"It takes {', '.join(signature.parameters)}."
        raise UsageError("bad-input", f"The module has no input named {', '.join(unknown)}.", hint)
    return Example(tuple(tensors.values())), tuple(tensors)


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
