"""Where the model of `optimize` comes from: a file, a model in memory, a module or a program, which are exported."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import onnx
import onnx_ir

from normfold.errors import ModelFileError, UsageError
from normfold.models import onnxfile
from normfold.models.source import module_of, name_of
from normfold.pipeline.stages import MODEL, Json, Workshop, digest
from normfold.records import Progress
from normfold.verbs.optimize.job import Step

PROGRAM: Final = ".pt2"


@dataclass(frozen=True, slots=True)
class Origin:
    """The model to optimise, in a file, and what it was."""

    file: Path
    sha256: str
    kind: str
    """onnx, module or program."""
    name: str | None
    path: Path | None
    """The file that it came in; None for one in memory."""
    path_sha256: str | None
    step: Step | None = None
    """The export, where there was one."""

    def document(self) -> Json:
        """As the result's document holds it."""
        path = None if self.path is None else str(self.path.resolve())
        return {
            "name": self.name,
            "kind": self.kind,
            "path": path,
            "path_sha256": self.path_sha256,
            "sha256": self.sha256,
        }


@dataclass(frozen=True, slots=True)
class Call:
    """How a module is called and exported."""

    example: Any
    dynamic: Mapping[str, Mapping[int, str]] | None
    input_names: tuple[str, ...] | None
    seed: int


def origin(model: Any, call: Call, workshop: Workshop, progress: Progress) -> Origin:
    """Where ``model`` is; a module or a program is exported, norms and all.

    Raises:
        NormfoldError: it cannot be read, or not be exported.
    """
    path = Path(name) if (name := name_of(model)) is not None else None
    if path is not None and path.suffix != PROGRAM:
        return _file(path, call)
    if isinstance(model, onnx.ModelProto | onnx_ir.Model):
        return _in_memory(model, call, workshop)
    if path is not None or type(model).__name__ == "ExportedProgram":
        return _program(model, path, call, workshop, progress)
    module = module_of(model)
    if module is None:
        raise UsageError("usage", f"An object of type {type(model).__name__} is no model.", "Give a path or a module.")
    if call.example is None:
        raise UsageError("usage", "A PyTorch module is exported first, and needs example_inputs=.")
    step, file = _exported(module, call, workshop, progress)
    return Origin(file, digest(file), "module", type(module).__qualname__, None, None, step)


def _file(path: Path, call: Call) -> Origin:
    _no_example(call)
    read = onnxfile.read(path)
    hashed = sha256(read.sha256.encode())
    for file in read.data_files:
        hashed.update(digest(file).encode())
    whole = hashed.hexdigest() if read.data_files else read.sha256
    return Origin(path, whole, "onnx", str(path), path, read.sha256)


def _in_memory(model: onnx.ModelProto | onnx_ir.Model, call: Call, workshop: Workshop) -> Origin:
    _no_example(call)
    held = onnxfile.from_proto(model) if isinstance(model, onnx.ModelProto) else model.clone()

    def write(folder: Path) -> Json:
        onnxfile.write(held, folder / MODEL)
        return {}

    stage = workshop.fresh("source", write)
    return Origin(stage.model, str(stage.record["sha256"]), "onnx", None, None, None)


def _program(model: Any, path: Path | None, call: Call, workshop: Workshop, progress: Progress) -> Origin:
    """The program in ``path``, or ``model`` itself."""
    from normfold.models.module.packages import needs

    needs("torch")
    needs("onnxscript")
    import torch

    from normfold.models.exporter.exporter import dynamic_sizes, quiet

    if path is not None:
        try:
            with quiet():
                program = torch.export.load(path)
        except FileNotFoundError as error:
            raise ModelFileError("file-not-found", f"There is no file {path}.") from error
        except Exception as error:
            said = " ".join(str(error).split())[:200]
            raise UsageError("bad-module", f"{path} cannot be read as a PyTorch program: {said}") from error
    else:
        program = model
    example = program.example_inputs if call.example is None else call.example
    if example is None:
        raise UsageError("usage", "The program has no example inputs of its own.", "Pass them as the second argument.")
    with quiet():
        module: Any = program.module()
    args, named = example if call.example is None else (example, {})
    module.training = False
    names = [name for name in program.graph_signature.user_inputs if isinstance(name, str)]
    dynamic = {name: axes for name, axes in zip(names, _named(dynamic_sizes(program)), strict=False) if axes}
    own = Call(named or args, dynamic or None, tuple(names), call.seed)
    with warnings.catch_warnings():
        # Copying a program makes PyTorch warn of itself.
        warnings.simplefilter("ignore", FutureWarning)
        step, file = _exported(module, own, workshop, progress)
    before = None if path is None else digest(path)
    return Origin(file, digest(file), "program", name_of(model), path, before, step)


def _named(sizes: Sequence[Mapping[int, str]]) -> list[dict[int, str]]:
    """``sizes`` with names for PyTorch's symbols: the first free size that is the first of an input is the batch."""
    symbols = dict.fromkeys(symbol for axes in sizes for symbol in axes.values())
    batch = next((axes[0] for axes in sizes if 0 in axes), None)
    names = {symbol: "batch" if symbol == batch else f"size{index}" for index, symbol in enumerate(symbols)}
    return [{axis: names[symbol] for axis, symbol in axes.items()} for axes in sizes]


def _exported(module: Any, call: Call, workshop: Workshop, progress: Progress) -> tuple[Step, Path]:
    from normfold.verbs.export import export

    def work(folder: Path) -> Json:
        done = export(
            module,
            call.example,
            output=folder / MODEL,
            dynamic=call.dynamic,
            input_names=call.input_names,
            fold=False,
            seed=call.seed,
            progress=lambda doing: progress(f"export: {doing}"),
        )
        return {"verification": done.document()["verification"]}

    stage = workshop.fresh("export", work)
    return Step("export", "kept", "to ONNX, compared with the module", stage.model, record=stage.record), stage.model


def _no_example(call: Call) -> None:
    if call.example is not None or call.dynamic:
        raise UsageError("usage", "example_inputs and dynamic are for modules.", "ONNX models take inputs and shapes.")
