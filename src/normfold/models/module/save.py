"""The state of a folded module as a file, and back into a module of its source's make."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from normfold._version import __version__
from normfold.backends.torch import is_normalised, modules, normalise, put, take_out
from normfold.errors import OutputError, UsageError
from normfold.models.module.packages import needs
from normfold.records import RECORDS_ATTRIBUTE, RECORDS_KEY, Decision, decision_record

TAKEN_OUT: Final = "normfold.taken_out"
REPLACED: Final = "normfold.replaced"
NORMALISED: Final = "normfold.normalised"
SUFFIX: Final = ".safetensors"
_CONVOLUTION: Final = (
    "in_channels",
    "out_channels",
    "kernel_size",
    "stride",
    "padding",
    "dilation",
    "groups",
    "bias",
    "padding_mode",
)
SETTINGS: Final[Mapping[type[nn.Module], Sequence[str]]] = {
    nn.Conv1d: _CONVOLUTION,
    nn.Conv2d: _CONVOLUTION,
    nn.Conv3d: _CONVOLUTION,
    nn.Linear: ("in_features", "out_features", "bias"),
    **dict.fromkeys((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), (*_CONVOLUTION, "output_padding")),
    nn.LayerNorm: ("normalized_shape", "eps", "elementwise_affine", "bias"),
    nn.RMSNorm: ("normalized_shape", "eps", "elementwise_affine"),
    nn.GroupNorm: ("num_groups", "num_channels", "eps", "affine"),
    **dict.fromkeys((nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d), ("num_features", "eps", "affine")),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), ("num_features", "eps", "momentum")),
    nn.Tanh: (),
    modules.FrozenBatchNorm: ("num_features", "eps"),
    modules.StaticAffine: ("shape",),
    modules.DynamicTanh: ("shape",),
    modules.PositionNorm: ("shape", "eps", "centred"),
    modules.Regrouped: ("by", "groups", "shape", "eps", "held", "mirrored"),
    modules.BatchLayerNorm: ("shape", "batch_size", "divisor", "eps", "static_batch", "static_features"),
}
"""What modules that take another one's place are made with."""


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A file beside ``target`` that takes its place in one step, unless an error ends the block.

    Raises:
        OutputError: ``output-not-writable``.
    """
    if not target.parent.is_dir():
        raise OutputError("output-not-writable", f"The folder {target.parent} does not exist.", "Create it first.")
    if target.exists() and not target.is_file():
        raise OutputError("output-not-writable", f"{target} is a directory or a special file.", "Name a file.")
    # The suffix stays: torch.export.save insists on its own.
    beside = target.with_name(f".normfold-{os.getpid()}-{secrets.token_hex(4)}.tmp{target.suffix}")
    try:
        beside.touch()
        mode = beside.stat().st_mode
        yield beside
        # safetensors gives its files to their owner alone.
        beside.chmod(mode)
        beside.replace(target)
    except OSError as error:
        raise OutputError("output-not-writable", f"{target} cannot be written: {error.strerror or error}.") from error
    finally:
        beside.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Structure:
    """How the structure of a folded module differs from that of its source."""

    removed: Sequence[str]
    """Names that its state lost."""
    added: Sequence[str]
    """Names that its state got."""
    taken_out: Mapping[str, Sequence[str]]
    """Paths from which a module is gone, and the children that are left there."""
    replaced: Mapping[str, Mapping[str, Any]]
    """Paths at which a module of another kind stands now, and how it is made."""
    normalised: Sequence[str]
    """Paths of modules whose weights have got a weight norm."""

    @staticmethod
    def between(source: nn.Module, folded: nn.Module, removed: Sequence[str], added: Sequence[str]) -> Structure:
        """How ``folded`` differs from ``source``, where its state lost and got these names."""
        before = dict(source.named_modules(remove_duplicate=False))
        gone, replaced, normalised = dict[str, list[str]](), dict[str, dict[str, Any]](), list[str]()
        for path, module in folded.named_modules(remove_duplicate=False):
            beside = path not in before and path.rpartition(".")[0] in gone
            if beside or (path in before and _is_another(module, before[path])):
                if is_parametrized(module):
                    normalised.append(path)
                elif type(module) in SETTINGS:
                    replaced[path] = _described(module)
                elif not beside:
                    gone[path] = [name for name, _ in module.named_children()]
        return Structure(removed, added, gone, replaced, normalised)


def _is_another(module: nn.Module, before: nn.Module) -> bool:
    """Whether ``module`` is of another kind than ``before``, or its weight has no norm any more."""
    return type(module) is not type(before) or (is_normalised(before) and not is_normalised(module))


def _described(module: nn.Module) -> dict[str, Any]:
    """The class and the settings that a module like ``module`` is made with."""
    settings = {name: getattr(module, name) for name in SETTINGS[type(module)]}
    flags = {"bias": settings["bias"] is not None} if "bias" in settings else {}
    return {"class": type(module).__name__, **settings, **flags}


def _remade(settings: Mapping[str, Any], old: nn.Module, state: Mapping[str, torch.Tensor]) -> nn.Module:
    """The module that ``settings`` describe, with room for ``state``, where ``old`` is."""
    kind = next(kind for kind in SETTINGS if kind.__name__ == settings["class"])
    chosen = {name: settings[name] for name in SETTINGS[kind] if name in settings}
    with torch.device("meta"):
        new = kind(**{name: tuple(held) if isinstance(held, list) else held for name, held in chosen.items()})
    device = next((tensor.device for tensor in (*old.parameters(), *old.buffers())), None)
    for name, _ in list(new.named_parameters()):
        new.register_parameter(name, nn.Parameter(torch.empty_like(state[name], device=device)))
    for name, _ in list(new.named_buffers()):
        new.register_buffer(name, torch.empty_like(state[name], device=device))
    new.training = old.training
    return new


def save_state(folded: nn.Module, structure: Structure, decisions: Sequence[Decision], target: Path) -> None:
    """Write the state of ``folded`` as safetensors, with what `restore` has to know in the metadata.

    Raises:
        OutputError: ``output-not-writable``.
        UsageError: ``bad-input`` where the state holds more than tensors.
    """
    needs("safetensors")
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    state = _plain(folded.state_dict())
    records = [decision_record(decision) for decision in decisions]
    metadata = {
        "format": "pt",
        "normfold.version": __version__,
        "normfold.removed": json.dumps(list(structure.removed)),
        "normfold.added": json.dumps(list(structure.added)),
        TAKEN_OUT: json.dumps(structure.taken_out),
        REPLACED: json.dumps(structure.replaced),
        NORMALISED: json.dumps(list(structure.normalised)),
        "normfold.decisions": json.dumps(records),
    }
    if hasattr(folded, RECORDS_ATTRIBUTE):
        metadata[RECORDS_KEY] = getattr(folded, RECORDS_ATTRIBUTE)
    with replacing(target) as file:
        try:
            save_file(state, file, metadata)
        except SafetensorError as error:
            raise OutputError("output-not-writable", f"{target} cannot be written: {error}.") from error


def restore(module: nn.Module, path: str | os.PathLike[str]) -> nn.Module:
    """Give ``module``, made as the source of a fold was, the structure and the weights of the folded one.

    Args:
        module: of the source's make; its own weights do not matter. It is changed, and handed back.
        path: a ``.safetensors`` file that ``normfold fold`` wrote.

    Raises:
        UsageError: ``bad-weights`` where the file was not written so, or for another module.
    """
    metadata, state = read_state(path)
    if TAKEN_OUT not in metadata:
        raise UsageError("bad-weights", f"{path} was not written by normfold.", "Load it with load_state_dict.")
    try:
        for place, children in json.loads(metadata[TAKEN_OUT]).items():
            take_out(module, place, children)
        for place, settings in json.loads(metadata.get(REPLACED, "{}")).items():
            own = {name.removeprefix(f"{place}."): held for name, held in state.items() if name.startswith(f"{place}.")}
            put(module, place, _remade(settings, module.get_submodule(place), own))
        for place in json.loads(metadata.get(NORMALISED, "[]")):
            normalise(module.get_submodule(place))
        for name in set(json.loads(metadata["normfold.added"])).difference(module.state_dict()):
            owner, _, own = name.rpartition(".")
            module.get_submodule(owner).register_parameter(own, nn.Parameter(torch.empty_like(state[name])))
        module.load_state_dict(state)
        if RECORDS_KEY in metadata:
            setattr(module, RECORDS_ATTRIBUTE, metadata[RECORDS_KEY])
    except (AttributeError, LookupError, RuntimeError, StopIteration, TypeError, ValueError) as error:
        words = " ".join(str(error).split())[:300]
        raise UsageError("bad-weights", f"{path} does not fit the module: {words}") from error
    return module


def read_state(path: str | os.PathLike[str]) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    """The metadata and the tensors of a safetensors file.

    Raises:
        UsageError: ``bad-weights``.
    """
    needs("safetensors")
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UsageError("bad-weights", f"{path} is no safetensors file: {error}") from error


def _plain(state: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Every tensor whole and in memory of its own, as the format wants them."""
    for name, value in state.items():
        if not isinstance(value, torch.Tensor):
            hint = "Write .pt2 or .onnx instead."
            raise UsageError("bad-input", f"{name} of the module's state is a {type(value).__name__}.", hint)
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
