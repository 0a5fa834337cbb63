"""A module named on the command line: the factory that makes it, its weights, inputs to run it on."""

from __future__ import annotations

import inspect
import pickle
import re
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from normfold.errors import UsageError, suggestion
from normfold.models.module.packages import needs
from normfold.models.named import named, words

if TYPE_CHECKING:
    import torch
    from torch import nn

    from normfold.models.module.example import Example

Array = NDArray[Any]
REFERENCE: Final = re.compile(
    r"(?P<package>[^\W\d]\w*(?:\.[^\W\d]\w*)*):(?P<factory>[^\W\d]\w*(?:\.[^\W\d]\w*)*)"
    r"(?::(?P<arguments>[^\W\d]\w*=.*))?"
)
"""``package.module:factory``, and ``:name=value,name=value`` for its arguments."""
WORDS: Final = {"true": True, "false": False, "none": None}
"""Values of arguments that are no numbers and no text, in lower case."""
PICKLED: Final = frozenset({".pth", ".pt", ".bin", ".ckpt"})
RandomInput = tuple[str, tuple[int, ...], str, int]
"""An input to generate: its name, its shape, its type, and the end of the range of its integers."""

WRAPPERS: Final = ("state_dict", "model", "model_state_dict", "model_state", "module", "net", "weights")
"""Names under which training scripts put the state dict into a checkpoint."""
PARALLEL, COMPILED = "module", "_orig_mod"
"""What `torch.nn.DataParallel` and `torch.compile` put into the names of a state dict."""
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
    factory = named(found["package"], found["factory"], "bad-module")
    module = _made(reference, factory, _arguments(found["arguments"] or ""))
    if weights is not None:
        _fill(module, weights)
    return module.eval()


def _arguments(text: str) -> dict[str, Any]:
    """The arguments in ``text``, such as ``depth=18,pretrained=false``, with the types that their values look like."""
    out: dict[str, Any] = {}
    for part in filter(None, text.split(",")):
        name, equals, value = part.partition("=")
        if not equals or not name.isidentifier():
            raise UsageError("bad-module", f"{part!r} is not of the form name=value.")
        out[name] = _typed(value)
    return out


def _typed(value: str) -> Any:
    """``value`` as an integer, a float, a truth value or None; else as text, which quotes make of anything."""
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        return value[1:-1]
    if value.lower() in WORDS:
        return WORDS[value.lower()]
    for kind in (int, float):
        with suppress(ValueError):
            return kind(value)
    return value


def _made(reference: str, factory: Any, arguments: Mapping[str, Any]) -> nn.Module:
    from torch import nn

    made = factory
    if not isinstance(factory, nn.Module):
        made = _called(reference, factory, arguments)
    elif arguments:
        raise UsageError("bad-module", f"{reference} is a module, which takes no arguments.")
    if not isinstance(made, nn.Module):
        raise UsageError(
            "bad-module", f"{reference} returns an object of type {type(made).__name__}, not an nn.Module."
        )
    return made


def _called(reference: str, factory: Any, arguments: Mapping[str, Any]) -> Any:
    if not callable(factory):
        hint = "Name a function or class that returns the module, or the module itself."
        raise UsageError(
            "bad-module", f"{reference} is an object of type {type(factory).__name__}, not an nn.Module.", hint
        )
    _check_arguments(reference, factory, arguments)
    try:
        return factory(**arguments)
    except (Exception, SystemExit) as error:
        raise UsageError("bad-module", f"{reference} fails: {words(error)}") from error


def _check_arguments(reference: str, factory: Callable[..., Any], given: Mapping[str, Any]) -> None:
    """Raise `UsageError` where ``factory`` needs more than what is ``given``, or has no argument of a name."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    known = [one.name for one in parameters if one.kind not in (*variadic, inspect.Parameter.POSITIONAL_ONLY)]
    takes_any = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters)
    for name in () if takes_any else given:
        if name not in known:
            hint = suggestion(name, known) or f"It takes {', '.join(known) or 'none'}."
            raise UsageError("bad-module", f"{reference} has no argument {name!r}.", hint)
    required = (one.name for one in parameters if one.default is one.empty and one.kind not in variadic)
    needed = [name for name in required if name not in given]
    if needed:
        hint = f"Give them, as in {reference}:{needed[0]}=1, or name a function without arguments."
        raise UsageError("bad-module", f"{reference} needs arguments: {', '.join(needed)}.", hint)


def _fill(module: nn.Module, weights: str) -> None:
    from normfold.models.module.save import TAKEN_OUT, restore

    metadata, state = _state(Path(weights))
    if TAKEN_OUT in metadata:
        restore(module, weights)
        return
    state = _by_own_names(state, module.state_dict().keys())
    # Tensors without values have nothing that could be overwritten.
    assign = any(tensor.is_meta for tensor in (*module.parameters(), *module.buffers()))
    try:
        missing, unexpected = module.load_state_dict(state, strict=False, assign=assign)
    except RuntimeError as error:
        raise UsageError("bad-weights", f"{weights} does not fit the module: {words(error)}") from error
    wrong = [f"{_some(names)} {what}" for names, what in ((missing, "missing"), (unexpected, "unexpected")) if names]
    if wrong:
        raise UsageError("bad-weights", f"{weights} does not fit the module: {'; '.join(wrong)}.")


def _by_own_names(state: Mapping[str, torch.Tensor], names: Collection[str]) -> Mapping[str, torch.Tensor]:
    """``state`` without what wrappers have put into its names, where it then fits ``names`` better."""
    ways = [{name: name for name in state}]
    ways.append({name: ".".join(part for part in name.split(".") if part != COMPILED) for name in state})
    ways.append({name: own.removeprefix(f"{PARALLEL}.") for name, own in ways[-1].items()})
    best = max((way for way in ways if len({*way.values()}) == len(state)), key=lambda way: _fit(way, names))
    return {own: state[name] for name, own in best.items()}


def _fit(way: Mapping[str, str], names: Collection[str]) -> int:
    return sum(own in names for own in way.values())


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
        raise UsageError("bad-weights", f"{path} cannot be read: {words(error)}") from error
    except (OSError, EOFError, ValueError) as error:
        raise UsageError("bad-weights", f"{path} cannot be read: {words(error)}") from error


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
        raise UsageError("bad-input", f"A random input cannot be made: {words(error)}") from error


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
    near = next(filter(None, (suggestion(name, known - set(tensors)) for name in unknown)), "")
    if near or len(unknown) < len(tensors):
        hint = near or f"It takes {', '.join(signature.parameters)}."
        raise UsageError("bad-input", f"The module has no input named {', '.join(unknown)}.", hint)
    return Example(tuple(tensors.values())), tuple(tensors)
