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

from normfold._version import __version__
from normfold.backends.torch import take_out
from normfold.errors import OutputError, UsageError
from normfold.models.module.packages import needs
from normfold.records import RECORDS_ATTRIBUTE, RECORDS_KEY, Decision, decision_record

TAKEN_OUT: Final = "normfold.taken_out"
SUFFIX: Final = ".safetensors"


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
    """Paths at which another module stands now, and the children that are left there."""


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
        for name in json.loads(metadata["normfold.added"]):
            owner, _, own = name.rpartition(".")
            module.get_submodule(owner).register_parameter(own, nn.Parameter(torch.empty_like(state[name])))
        module.load_state_dict(state)
        if RECORDS_KEY in metadata:
            setattr(module, RECORDS_ATTRIBUTE, metadata[RECORDS_KEY])
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
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


def taken_out(source: nn.Module, folded: nn.Module) -> dict[str, list[str]]:
    """Paths at which another module stands now, and the children that are left there."""
    before = dict(source.named_modules(remove_duplicate=False))
    return {
        path: [name for name, _ in module.named_children()]
        for path, module in folded.named_modules(remove_duplicate=False)
        if type(module) is not type(before.get(path)) and path in before
    }
