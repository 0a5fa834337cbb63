"""From an untrusted file to an `onnx_ir.Model`."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Final

from normfold.errors import ModelFileError
from normfold.models.onnxfile.kinds import AGAIN, folder_kind, kind_of, near_miss
from normfold.models.onnxfile.order import sort_nodes
from normfold.models.onnxfile.structure import UnsortedError, examine, examine_sorted

if TYPE_CHECKING:
    import onnx
    import onnx_ir

    from normfold.models.onnxfile.external import DataFolder
    from normfold.models.onnxfile.structure import Findings

MAX_PROTO_BYTES: Final = 2**31 - 1
"""Largest message that protobuf can hold."""


@dataclass(frozen=True)
class ModelFile:
    """A model and where it came from."""

    model: onnx_ir.Model
    """Its external tensors are mapped from their files, not loaded."""
    path: Path
    """As given."""
    file: Path
    """The file that ``path`` leads to, links resolved."""
    data_folder: Path
    """Folder in which the names that the file gives to its data files are found."""
    data_files: tuple[Path, ...]
    """The data files, links resolved."""
    locations: Mapping[str, Path]
    """The same by the names that the file gives them."""
    sha256: str
    """Of the bytes of the .onnx file, in hexadecimal; external data is not part of it."""
    nbytes: int
    """Bytes of the .onnx file and of its data files together."""
    external: bool
    """Whether any tensor is kept in a data file."""


def read(path: str | os.PathLike[str]) -> ModelFile:
    """Read a model file and check it.

    Raises:
        ModelFileError: with one of the codes from ``file-not-found`` to ``unsupported-version``.
    """
    from normfold.models.onnxfile.external import DataFolder

    path = Path(path)
    data = _read_bytes(path)
    sha256, size = hashlib.sha256(data).hexdigest(), len(data)
    proto = _parse(data, path)
    del data
    try:
        findings = _examine(proto)
        if findings.sparse:
            _densify(proto)
        model = _deserialize(proto)
        # onnx_ir would write the metadata of these twice.
        _detach(model, annotated=True)
        folder = DataFolder(path)
        if findings.external:
            _map_external(model, folder)
    except ModelFileError as error:
        raise ModelFileError(error.code, f"{path}: {error.message}", error.hint) from error
    except RecursionError as error:
        raise _not_onnx(path, "it is nested too deeply", AGAIN) from error
    files = folder.files
    return ModelFile(
        model=model,
        path=path,
        file=Path(os.path.realpath(path)),
        data_folder=folder.folder,
        data_files=tuple(file.path for file in files),
        locations=folder.locations,
        sha256=sha256,
        nbytes=size + sum(file.size for file in files),
        external=findings.external,
    )


def from_proto(proto: onnx.ModelProto) -> onnx_ir.Model:
    """Turn a parsed model into an `onnx_ir.Model`, with the checks that `read` makes.

    The tensors read their bytes from ``proto``, which is never changed here and must not be changed
    by anyone else while the result is in use.

    Raises:
        ModelFileError: as `check_structure`; ``missing-external-data`` if tensors are in another
            file, whose folder a parsed model does not know.
    """
    import onnx

    from normfold.models.onnxfile.carried import has_maps

    given = proto
    proto, findings = examine_sorted(proto)
    if findings.external:
        raise ModelFileError(
            "missing-external-data",
            "The model keeps tensors in another file, and a parsed model does not say in which folder.",
            "Pass the path of the model file, or load it with its external data.",
        )
    if proto is given and (findings.sparse or has_maps(proto)):
        proto = onnx.ModelProto()
        proto.CopyFrom(given)
    if findings.sparse:
        _densify(proto)
    model = _deserialize(proto)
    if proto is given:
        _shield(model)
    return model


def to_proto(model: onnx_ir.Model) -> onnx.ModelProto:
    """The inverse of `from_proto`."""
    from onnx_ir import serde

    from normfold.models.onnxfile.carried import put_back
    from normfold.models.onnxfile.graphs import graphs

    proto = serde.serialize_model(model)
    put_back(model, proto)
    for graph in graphs(proto):
        _state_initializers_once(graph)
    return proto


def _state_initializers_once(graph: onnx.GraphProto) -> None:
    """Take out the types of initializers, which onnx_ir writes beside them, and which other tools do not expect."""
    stored = {tensor.name for tensor in graph.initializer}
    for index in reversed(range(len(graph.value_info))):
        if graph.value_info[index].name in stored:
            del graph.value_info[index]


def _examine(proto: onnx.ModelProto) -> Findings:
    """Check a ``proto`` of our own, and sort it where it is out of order."""
    try:
        return examine(proto)
    except UnsortedError:
        sort_nodes(proto)
        return examine(proto)


def _read_bytes(path: Path) -> bytes:
    try:
        # Without O_NONBLOCK a named pipe would wait for its other end for ever.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        way = near_miss(path) if isinstance(error, FileNotFoundError) else "Check the path."
        raise ModelFileError("file-not-found", f"{path} cannot be read: {reason}.", way) from error
    if stat.S_ISDIR(os.fstat(handle).st_mode):
        os.close(handle)  # `fdopen` would raise on it, and leave it open
        raise _not_a_file(path)
    with os.fdopen(handle, "rb", buffering=0) as file:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise _not_a_file(path)
        if status.st_size == 0:
            raise ModelFileError("empty-file", f"{path} is empty.", "The download or the export did not finish.")
        if status.st_size > MAX_PROTO_BYTES:
            raise ModelFileError(
                "too-large",
                f"{path} has {status.st_size} bytes; an ONNX file holds at most {MAX_PROTO_BYTES}.",
                "Save the model with external data.",
            )
        try:
            return file.readall()
        except MemoryError as error:
            raise ModelFileError("too-large", f"{path} does not fit into memory.") from error
        except OSError as error:
            raise ModelFileError("file-not-found", f"{path} cannot be read: {error.strerror}.") from error


def _parse(data: bytes, path: Path) -> onnx.ModelProto:
    import onnx
    from google.protobuf.message import DecodeError

    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError as error:
        raise _not_onnx(path, *kind_of(data, path)) from error
    if not proto.HasField("graph") and not proto.ir_version:
        raise _not_onnx(path, *kind_of(data, path))
    return proto


def _deserialize(proto: onnx.ModelProto) -> onnx_ir.Model:
    """Build the model; maps lose their types in ``proto``."""
    from onnx_ir import serde

    from normfold.models.onnxfile.carried import attach, take_maps

    types = take_maps(proto)
    try:
        model = serde.deserialize_model(proto)
    # What the structural check lets through and onnx_ir still cannot represent, such as unknown types of values.
    except (serde.SerdeError, ValueError, TypeError, KeyError, NotImplementedError) as error:
        raise ModelFileError(
            "bad-structure",
            f"The model cannot be represented: {root_cause(error)}",
            "Export the model again; onnx.checker.check_model may say more.",
        ) from error
    attach(model, proto, types)
    _forget_negative_sizes(model)
    return model


def _forget_negative_sizes(model: onnx_ir.Model) -> None:
    """A dimension of -1, which Paddle and others write, says that its size is free."""
    outermost = [model.graph, *(function.graph for function in model.functions.values())]
    for graph in chain.from_iterable((graph, *graph.subgraphs()) for graph in outermost):
        for value in (*graph.inputs, *(output for node in graph for output in node.outputs)):
            if value.shape is not None:
                value.shape = _with_free_sizes(value.shape)


def _with_free_sizes(shape: onnx_ir.Shape) -> onnx_ir.Shape:
    negative = [axis for axis, size in enumerate(shape.dims) if isinstance(size, int) and size < 0]
    free = shape.copy() if negative else shape
    for axis in negative:
        free[axis] = None
    return free


def root_cause(error: BaseException) -> str:
    """The first line of the error behind onnx_ir's chain of them, which quotes whole protos."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).split("\n", 1)[0][:300]


def _densify(proto: onnx.ModelProto) -> None:
    from normfold.models.onnxfile.sparse import densify

    densify(proto)


def _map_external(model: onnx_ir.Model, folder: DataFolder) -> None:
    import onnx_ir

    from normfold.models.onnxfile.slots import slots

    for slot in list(slots(model)):
        if isinstance(slot.tensor, onnx_ir.ExternalTensor):
            slot.put(folder.open(slot.tensor))


def _shield(model: onnx_ir.Model) -> None:
    """Give the tensors names of their own: onnx_ir would write theirs into the caller's proto when serialising."""
    _detach(model, annotated=False)


def _detach(model: onnx_ir.Model, *, annotated: bool) -> None:
    """Detach all tensors from the parsed model, or those that are ``annotated`` with metadata."""
    import onnx_ir

    from normfold.models.onnxfile.slots import detached, slots

    for slot in list(slots(model)):
        tensor = slot.tensor
        if isinstance(tensor, onnx_ir.TensorProtoTensor) and (tensor.metadata_props or not annotated):
            slot.put(detached(tensor))


def _not_a_file(path: Path) -> ModelFileError:
    kind, way = folder_kind(path)
    return ModelFileError("not-a-file", f"{path} is {kind}.", way)


def _not_onnx(path: Path, reason: str, way: str) -> ModelFileError:
    return ModelFileError("not-onnx", f"{path} is not an ONNX model: {reason}.", way)
