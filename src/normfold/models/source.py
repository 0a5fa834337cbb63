"""What a model is, and where it comes from: a file, a model in memory, or a PyTorch module."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import onnx
import onnx_ir

from normfold.backends.onnx import drop_empty_biases
from normfold.errors import UsageError
from normfold.models import onnxfile
from normfold.runtime import Runnable

if TYPE_CHECKING:
    from torch import nn

File = str | os.PathLike[str]
OnnxModel = File | onnx.ModelProto | onnx_ir.Model

RANDOM: Final = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}
)
"""Operators that answer differently each time."""


@dataclass(frozen=True, slots=True)
class OnnxSource:
    """An ONNX model to work on: a fresh copy at each call of ``fresh``, and a file that can be run."""

    fresh: Callable[[], onnx_ir.Model]
    digest: str | None
    """SHA-256 of the file's bytes; ``None`` for a model that never had any."""
    file: onnxfile.ModelFile | None = None
    proto: bool = False
    """Whether it came as an ``onnx.ModelProto``, and its result leaves as one."""
    mended: bool = False
    """Whether biases of zeros that do not fit were taken out, without which nothing runs it."""

    @property
    def nbytes(self) -> int:
        """Size of the model's files; 0 for one in memory."""
        return self.file.nbytes if self.file else 0

    @contextmanager
    def runnable(self) -> Iterator[Runnable]:
        """The model's own file, or one written for the occasion."""
        if self.file is not None and not self.mended:
            yield Runnable(self.file.file, self.file.data_folder)
            return
        with runnable(self.fresh()) as written:
            yield written

    def like_source(self, model: onnx_ir.Model) -> onnx_ir.Model | onnx.ModelProto:
        """``model`` in the form that the source came in; an ``onnx_ir.Model`` for a file."""
        return onnxfile.to_proto(model) if self.proto else model


def is_onnx(model: object) -> bool:
    """Whether ``model`` is an ONNX model, or the path of a file."""
    return isinstance(model, onnx.ModelProto | onnx_ir.Model | str | os.PathLike)


def onnx_source(model: object) -> OnnxSource:
    """Where ``model``, a path, an ``onnx.ModelProto`` or an ``onnx_ir.Model``, comes from.

    Raises:
        UsageError: it is none of these.
        ModelFileError: it cannot be read.
    """
    source = _as_it_came(model)
    first = source.fresh()
    if drop_empty_biases(first):
        return replace(source, fresh=lambda: _without_empty_biases(source.fresh()), mended=True)
    firsts = iter([first])
    return replace(source, fresh=lambda: next(firsts, None) or source.fresh())


def _without_empty_biases(model: onnx_ir.Model) -> onnx_ir.Model:
    drop_empty_biases(model)
    return model


def _as_it_came(model: object) -> OnnxSource:
    if isinstance(model, onnx.ModelProto):
        onnxfile.check_structure(model)
        digest = sha256(model.SerializeToString(deterministic=True)).hexdigest()
        return OnnxSource(lambda: onnxfile.from_proto(model), digest, proto=True)
    if isinstance(model, onnx_ir.Model):
        return OnnxSource(model.clone, None)
    if not isinstance(model, str | os.PathLike):
        kind = type(model).__name__
        message = (
            f"A model is a path, an onnx.ModelProto, an onnx_ir.Model or an nn.Module, not an object of type {kind}."
        )
        raise UsageError("usage", message, _way_to_a_module(model))
    file = onnxfile.read(model)
    # The first copy is the one that was read to check the file.
    copies = iter([file.model])
    return OnnxSource(lambda: next(copies, None) or onnxfile.read(model).model, file.sha256, file)


def no_module(model: object, verb: str) -> UsageError:
    """The error that ``verb`` takes a module, and ``model`` is none; with the way out."""
    kind = type(model).__name__
    return UsageError("usage", f"{verb} takes an nn.Module, not an object of type {kind}.", _way_to_a_module(model))


def _way_to_a_module(model: object) -> str:
    """What to do with ``model``, which is none."""
    owner = getattr(model, "__self__", None)
    if type(model).__name__ == "ExportedProgram":
        return "normfold.fold_program takes it, and hands one back."
    if module_of(owner) is not None:
        return f"Pass the module whose method it is, a {type(owner).__name__}."
    if callable(model):
        return "Let a class with torch.nn.Module as its base call it in its forward, and pass an object of that."
    return "Pass the path of an ONNX model, or an nn.Module."


def name_of(model: object) -> str | None:
    """The path of a model's file; None for a model in memory."""
    return os.fspath(model) if isinstance(model, str | os.PathLike) else None


def module_of(model: Any) -> nn.Module | None:
    """``model``, or the ``model`` of a learner, where that is an ``nn.Module``; found out without importing torch."""
    torch = sys.modules.get("torch")
    found = (one for one in (model, getattr(model, "model", None)) if torch and isinstance(one, torch.nn.Module))
    return next(found, None)


@contextmanager
def runnable(model: onnx_ir.Model) -> Iterator[Runnable]:
    """``model`` in a file written for the occasion."""
    with scratch_path() as path, onnxfile.stage(model, path) as staged:
        yield Runnable(staged.file, staged.data_folder)


@contextmanager
def scratch_path() -> Iterator[Path]:
    """A file name in a folder that goes away."""
    with tempfile.TemporaryDirectory(prefix="normfold-") as folder:
        yield Path(folder) / "model.onnx"


def is_random(model: onnx_ir.Model) -> bool:
    """Whether ``model`` has random operators, so that it may differ from itself."""
    functions = chain.from_iterable(function.all_nodes() for function in model.functions.values())
    return any(node.op_type in RANDOM for node in chain(model.graph.all_nodes(), functions))
