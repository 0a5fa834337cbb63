"""From an `onnx_ir.Model` to a file, complete or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, Literal, NamedTuple

import onnx
import onnx_ir as ir
from google.protobuf.message import EncodeError
from onnx_ir import serde

from normfold import limits
from normfold.errors import ModelFileError, OutputError
from normfold.models.onnxfile.datafile import DataWriter, cannot_write
from normfold.models.onnxfile.encoding import pieces
from normfold.models.onnxfile.external import MappedTensor
from normfold.models.onnxfile.locks import Writing, cut, data_file_pattern, refers_to, sole_writer
from normfold.models.onnxfile.reading import MAX_PROTO_BYTES, ModelFile, root_cause, to_proto
from normfold.models.onnxfile.slots import Initializer, Slot, detached, slots

ExternalData = Literal["auto", "always", "never"]
Source = ModelFile | Path | Iterable[Path] | None

INLINE_BELOW: Final = 1 << 10
"""Tensors of fewer bytes stay in the model file: shapes and axes, which shape inference reads."""
AUTO_LIMIT: Final = 1_800_000_000
"""Bytes of tensors from which ``external="auto"`` writes a data file."""

_COMPARE_CHUNK: Final = 8 << 20


class Staged:
    """A complete model beside its target, waiting to take its place."""

    def __init__(self, target: Path, file: Path, data_file: Path | None, keep: frozenset[Path]) -> None:
        self.file = file
        """The model file, under a temporary name in the target's folder."""
        self.data_folder = target.parent
        """Folder of the data file that the model refers to."""
        self.data_file = data_file
        """The data file, already under its final name; None when all tensors are in the model file."""
        self.committed = False
        self._target = target
        self._keep = keep

    def commit(self) -> None:
        """Put the model in place of the target with one rename, then drop the old target's data file.

        Raises `OutputError` ``output-not-writable``; the target is then as it was.
        """
        if self.committed:
            return
        outdated = _data_files_of(self._target)
        self.committed = True  # first: an interrupt right after the rename must not remove the data file
        try:
            self.file.replace(self._target)
        except OSError as error:
            self.committed = False
            raise cannot_write(str(self._target), error) from error
        _flush_folder(self._target.parent)
        for file in outdated:
            if file != self.data_file and Path(os.path.realpath(file)) not in self._keep:
                # The new model is in place and complete; a file left behind does not make that untrue.
                with contextlib.suppress(OSError):
                    file.unlink()


class _Files(NamedTuple):
    """What goes away unless the model is committed."""

    writing: Writing
    scratch: contextlib.ExitStack


@contextlib.contextmanager
def stage(
    model: ir.Model,
    path: str | os.PathLike[str],
    *,
    external: ExternalData = "auto",
    source: Source = None,
    in_place: bool = False,
) -> Iterator[Staged]:
    """Write ``model`` to a temporary file beside ``path``; `Staged.commit` then renames it to ``path``.

    Leaving the context without a commit removes all that was written; what a killed process leaves, the next one that
    writes to ``path`` removes. One process at a time is inside the context for one ``path``, the others wait.

    Data goes into a second file when ``external`` is ``always``, or ``auto`` and the source had such
    data or the tensors exceed what one file can hold. It is named ``STEM-DIGEST.data`` by its
    contents, so that an old and a new model never claim one name for different data. Tensors that
    have a method ``chunks`` (see `normfold.models.onnxfile.datafile.Chunked`) are computed as they are written.

    ``source`` is what the model was read from: it is not overwritten unless ``in_place``, its data
    files never but by data files. When ``path`` is a symbolic link, the link is replaced and the file
    that it leads to stays, since other names may rely on it. ``model`` is unchanged afterwards.

    Raises:
        OutputError: ``output-is-input``, ``output-not-writable``, ``too-large``.
        ModelFileError: ``missing-external-data``, ``unsafe-external-data`` for data of ``model`` that
            cannot be read; ``invalid-model`` for a model that has no serialised form.
    """
    target = Path(path)
    held = list(slots(model))
    models, data = _inputs(source, held)
    _check_target(target, models, data, in_place=in_place)
    with sole_writer(target) as writing, contextlib.ExitStack() as scratch:
        mode = _mode(target)
        moved: dict[int, ir.TensorProtocol] = {
            position: detached(slot.tensor)
            for position, slot in enumerate(held)
            if isinstance(slot.tensor, ir.ExternalTensor)
        }
        data_file = None
        if _wants_data_file(held, external, source):
            data_file = _write_data(target, held, moved, mode, _Files(writing, scratch))
        proto = _serialize(model, held, moved)
        file = _temporary(target)
        scratch.callback(file.unlink, missing_ok=True)
        _write_model(file, proto, mode)
        del proto
        _flush_folder(target.parent)
        staged = Staged(target, file, data_file, frozenset() if in_place else data)
        try:
            yield staged
        finally:
            if staged.committed:
                scratch.pop_all()


def write(
    model: ir.Model, path: str | os.PathLike[str], *, external: ExternalData = "auto", source: Source = None
) -> None:
    """Write ``model`` to ``path`` in one step; arguments and errors are those of `stage`."""
    with stage(model, path, external=external, source=source) as staged:
        staged.commit()


def _inputs(source: Source, held: Iterable[Slot]) -> tuple[frozenset[Path], frozenset[Path]]:
    """Real paths of the model files and of the data files that were read."""
    models: list[Path] = []
    data = [_data_path(tensor) for slot in held if isinstance(tensor := slot.tensor, ir.ExternalTensor)]
    if isinstance(source, ModelFile):
        models.append(source.file)
        data.extend(source.data_files)
    elif isinstance(source, Path):
        models.append(source)
    elif source is not None:
        models.extend(source)
    return _real(models), _real(data)


def _data_path(tensor: ir.ExternalTensor) -> Path:
    return tensor.file.path if isinstance(tensor, MappedTensor) else Path(tensor.path)


def _real(paths: Iterable[Path]) -> frozenset[Path]:
    return frozenset(Path(os.path.realpath(path)) for path in set(paths))


def _check_target(target: Path, models: frozenset[Path], data: frozenset[Path], *, in_place: bool) -> None:
    if "\0" in os.fspath(target):
        raise _refused("A path cannot have a NUL in it.", "Choose another name.")
    try:
        if not target.parent.is_dir():
            raise _refused(f"The folder {target.parent} does not exist.", "Create it first.")
        if target.exists() and not target.is_file():
            raise _refused(f"{target} is a directory or a special file.", "Name a file.")
        if not in_place and _same_as_any(target, models):
            raise OutputError(
                "output-is-input",
                f"{target} is the model that was read.",
                "Choose another name, or ask for --in-place.",
            )
        if _same_as_any(target, data):
            raise OutputError(
                "output-is-input", f"{target} is a data file of the model that was read.", "Choose another name."
            )
    except OSError as error:
        raise _refused(f"{target} cannot be used: {error}.", "Check the path and your rights on it.") from error


def _same_as_any(target: Path, files: frozenset[Path]) -> bool:
    return target.exists() and any(file.exists() and file.samefile(target) for file in files)


def _refused(message: str, hint: str) -> OutputError:
    return OutputError("output-not-writable", message, hint)


def _mode(target: Path) -> int | None:
    """Permission bits that a replacement must keep; None for a new file, which gets the usual ones."""
    return stat.S_IMODE(target.stat().st_mode) & 0o777 if target.exists() and not target.is_symlink() else None


def _wants_data_file(held: Iterable[Slot], external: ExternalData, source: Source) -> bool:
    if external == "always":
        return True
    total = sum(_nbytes(slot.tensor) for slot in held)
    if external == "never":
        if total > MAX_PROTO_BYTES:
            raise _too_large()
        return False
    had_data_file = isinstance(source, ModelFile) and source.external
    return had_data_file or total > AUTO_LIMIT or any(isinstance(slot.tensor, ir.ExternalTensor) for slot in held)


def _nbytes(tensor: ir.TensorProtocol) -> int:
    if isinstance(tensor, ir.StringTensor):
        return sum(map(len, tensor.string_data()))
    return int(tensor.nbytes)


def _too_large() -> OutputError:
    return OutputError(
        "too-large", "The model does not fit into one ONNX file of 2 GiB.", "Allow external data: --external-data auto."
    )


def _moves(slot: Slot) -> bool:
    """Whether a slot's tensor goes into the data file.

    Tensor attributes of operations other than Constant stay: runtimes load external data for
    initializers and Constants only, unless the source had it elsewhere already.
    """
    tensor = slot.tensor
    if isinstance(tensor, ir.StringTensor) or tensor.dtype == ir.DataType.STRING or tensor.nbytes < INLINE_BELOW:
        return False
    place = isinstance(slot, Initializer) or slot.node.op_type == "Constant"
    return place or isinstance(tensor, ir.ExternalTensor)


def _write_data(
    target: Path,
    held: Iterable[Slot],
    moved: dict[int, ir.TensorProtocol],
    mode: int | None,
    files: _Files,
) -> Path | None:
    """Write the data file under its final name; fill ``moved`` with the references, by position of the slot."""
    places = {position: slot.tensor for position, slot in enumerate(held) if _moves(slot)}
    if not places:
        return None
    temporary = _temporary(target)
    files.scratch.callback(temporary.unlink, missing_ok=True)
    offsets: dict[_Identity, int] = {}
    with _created(temporary, mode) as handle, DataWriter(handle) as writer:
        for tensor in places.values():
            limits.check()
            identity = _identity(tensor)
            if identity not in offsets:
                offsets[identity] = writer.append(tensor)
        digest = writer.finish()
    final = _take_name(target, temporary, digest, files)
    for position, tensor in places.items():
        moved[position] = _reference(tensor, final, offsets[_identity(tensor)])
    return final


_Identity = tuple[object, ...]


def _identity(tensor: ir.TensorProtocol) -> _Identity:
    """Equal for tensors that share their bytes, which are then written once."""
    if isinstance(tensor, ir.ExternalTensor):
        return (os.fspath(_data_path(tensor)), tensor.offset or 0, tensor.nbytes)
    return (id(tensor),)


def _reference(tensor: ir.TensorProtocol, file: Path, offset: int) -> ir.ExternalTensor:
    return ir.ExternalTensor(
        file.name,
        offset,
        tensor.nbytes,
        tensor.dtype,
        shape=ir.Shape(tensor.shape.numpy()),
        name=tensor.name or "",
        doc_string=tensor.doc_string,
        metadata_props=dict(tensor.metadata_props) or None,
        base_dir=file.parent,
    )


def _take_name(target: Path, temporary: Path, digest: str, files: _Files) -> Path:
    """Rename the data file by its digest, or give way to a file of that name with the same bytes.

    A file of that name with other bytes belongs to another model, so the next name is tried.
    """
    while True:
        final = target.with_name(f"{target.stem}-{digest[:16]}.data")
        try:
            if not os.path.lexists(final):
                files.writing.announce(final)
                temporary.replace(final)
                files.scratch.callback(final.unlink, missing_ok=True)
                return final
            if _same_bytes(temporary, final):
                temporary.unlink()
                return final
        except OSError as error:
            raise cannot_write(str(final), error) from error
        digest = hashlib.sha256(digest.encode()).hexdigest()


def _same_bytes(one: Path, other: Path) -> bool:
    if other.is_symlink() or not other.is_file() or one.stat().st_size != other.stat().st_size:
        return False
    with one.open("rb", buffering=0) as left, other.open("rb", buffering=0) as right:
        while chunk := left.read(_COMPARE_CHUNK):
            if chunk != right.read(_COMPARE_CHUNK):
                return False
    return True


def _serialize(model: ir.Model, held: list[Slot], moved: dict[int, ir.TensorProtocol]) -> onnx.ModelProto:
    """Serialise ``model`` with the tensors of ``moved`` in place of its own, which are put back afterwards."""
    originals = [(slot, slot.tensor, slot.tensor.name) for slot in held]
    try:
        for position, reference in moved.items():
            held[position].put(reference)
        return to_proto(model)
    except MemoryError as error:
        raise limits.out_of_memory() from error
    except (serde.SerdeError, TypeError, ValueError) as error:
        raise ModelFileError("invalid-model", f"The model cannot be serialised: {root_cause(error)}") from error
    finally:
        for position in moved:
            held[position].put(originals[position][1])
        for _, tensor, name in originals:
            if tensor.name != name:  # serialising names a tensor after its value
                tensor.name = name


def _write_model(file: Path, proto: onnx.ModelProto, mode: int | None) -> None:
    try:
        with _created(file, mode) as handle:
            for piece in pieces(proto):
                view = memoryview(piece)
                while view:
                    view = view[os.write(handle, view) :]
            os.fsync(handle)
    except EncodeError as error:
        raise _too_large() from error
    except MemoryError as error:
        raise limits.out_of_memory() from error
    except OSError as error:
        raise cannot_write(str(file.parent), error) from error


@contextlib.contextmanager
def _created(file: Path, mode: int | None) -> Iterator[int]:
    try:
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
        handle = os.open(file, flags, 0o666)
    except OSError as error:
        raise _refused(
            f"No file can be created in {file.parent}: {error}.", "Check your rights and the name."
        ) from error
    try:
        if mode is not None:
            file.chmod(mode)
        yield handle
    finally:
        os.close(handle)


def _temporary(target: Path) -> Path:
    return target.with_name(f".{cut(target.name)}.normfold-{os.getpid()}-{secrets.token_hex(4)}.tmp")


def _data_files_of(target: Path) -> list[Path]:
    """Data files of our naming that the model about to be replaced refers to.

    None for a link, and for a file with other names: what is there stays in use.
    """
    ours = data_file_pattern(target)
    try:
        if target.is_symlink() or not target.is_file() or target.stat().st_nlink > 1:
            return []
        found = [file for file in target.parent.iterdir() if ours.fullmatch(file.name) and not file.is_symlink()]
        return [file for file in found if refers_to(target, file.name)]
    except OSError:
        return []  # what cannot be read cannot be known to be outdated


def _flush_folder(folder: Path) -> None:
    """Make renames in ``folder`` survive a power cut, where the system lets folders be flushed."""
    if os.name != "posix":
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return  # a folder may be open for writing but not for reading
    try:
        os.fsync(handle)
    except OSError as error:
        raise cannot_write(str(folder), error) from error
    finally:
        os.close(handle)
