"""External data: files that are proven to lie in the model's folder, and tensors mapped from them."""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Final

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx_ir import serde

from normfold.errors import ModelFileError

MAX_FILES_SEARCHED: Final = 20_000
"""Files looked at to account for the hard links of a data file."""

# The path is real already, so a link in its place was put there since; a pipe would block without O_NONBLOCK.
_SAFELY: Final = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)


@dataclass(slots=True)
class DataFile:
    """A data file, opened and mapped once, however many tensors it holds.

    The mapping lives as long as a tensor of the file does; replacing the file on disk does not disturb it.
    """

    root: Path
    """Real folder that the file was proven to lie in."""
    path: Path
    """Real path of the file."""
    size: int
    mapping: mmap.mmap | None = field(repr=False)
    """None for an empty file, which cannot be mapped."""

    def view(self, start: int, length: int) -> memoryview:
        """Bytes of the file, without a copy."""
        return memoryview(self.mapping if self.mapping is not None else b"")[start : start + length]

    def release(self, start: int, length: int) -> None:
        """Take pages that were read out of this process's memory; they come back when they are read again."""
        if self.mapping is not None and hasattr(mmap, "MADV_DONTNEED") and length:
            first = start - start % mmap.PAGESIZE
            self.mapping.madvise(mmap.MADV_DONTNEED, first, start + length - first)


class MappedTensor(ir.ExternalTensor):
    """A tensor of a `DataFile`.

    onnx_ir's own class opens and maps the file once per tensor, which exhausts the file handles of
    a process on large models, and refuses every file with hard links.
    """

    __slots__ = ("_data", "_view")

    def __init__(self, source: ir.ExternalTensor, data: DataFile) -> None:
        super().__init__(
            data.path.relative_to(data.root).as_posix(),
            source.offset or 0,
            source.nbytes,
            source.dtype,
            shape=ir.Shape(source.shape),
            name=source.name,
            doc_string=source.doc_string,
            metadata_props=dict(source.metadata_props) or None,
            base_dir=str(data.root),
        )
        self._data = data
        self._view: npt.NDArray[np.generic] | None = None

    @property
    def file(self) -> DataFile:
        """The file that holds the bytes."""
        return self._data

    def buffer(self) -> memoryview:
        """The tensor's bytes in the mapping, little endian and packed as the format prescribes; no copy."""
        return self._data.view(self.offset or 0, self.nbytes)

    def numpy(self) -> npt.NDArray[np.generic]:
        """Return the values: a read-only view of the mapping, or unpacked for types below one byte."""
        if self._view is None:
            self._view = self._load_view()
        return self._view

    def _load_view(self) -> npt.NDArray[np.generic]:
        shape = self.shape.numpy()
        if self.dtype.bitwidth >= 8:
            return np.frombuffer(self.buffer(), dtype=self.dtype.numpy().newbyteorder("<")).reshape(shape)
        packed = onnx.TensorProto(dims=shape, data_type=self.dtype.value, raw_data=self.tobytes())
        return serde.deserialize_tensor(packed).numpy()

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[np.generic]:  # noqa: FBT001
        return np.array(self.numpy(), dtype=dtype, copy=copy) if copy else np.asarray(self.numpy(), dtype=dtype)

    def tobytes(self) -> bytes:
        """Return a copy of the bytes."""
        return bytes(self.buffer())

    def tofile(self, file: object) -> None:
        """Write the bytes to a binary file object."""
        file.write(self.buffer())  # type: ignore[attr-defined]

    def release(self) -> None:
        """Give up the memory that reading has taken; the mapping is shared and stays."""
        self._view = None
        self._data.release(self.offset or 0, self.nbytes)


class DataFolder:
    """The data files of one model file, and the rule which of them may be read.

    A name is looked up beside the model as named and, when that is a symbolic link, beside the
    file that it leads to. Either way the real file must lie in one of these two folders. That lets
    through the cache of Hugging Face, where the model and its data are both links into one folder
    of blobs, and nothing else.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._folders = [path.parent]
        if path.is_symlink():
            self._folders.append(Path(os.path.realpath(path)).parent)
        self._roots = [Path(os.path.realpath(folder)) for folder in self._folders]
        self._used: Path | None = None
        self._by_location: dict[str, DataFile] = {}
        self._by_path: dict[Path, DataFile] = {}

    @property
    def files(self) -> tuple[DataFile, ...]:
        """The files opened so far."""
        return tuple(self._by_path.values())

    @property
    def locations(self) -> dict[str, Path]:
        """The same by the names that the model file gives them."""
        return {location: file.path for location, file in self._by_location.items()}

    @property
    def folder(self) -> Path:
        """Folder in which the names that the model file gives to its data files are found."""
        return self._used or self._folders[0]

    def open(self, tensor: ir.ExternalTensor) -> MappedTensor:
        """Map one tensor.

        Raises `ModelFileError`: ``unsafe-external-data`` for a file outside the model's folder,
        ``missing-external-data`` for one that is absent, unreadable or too short.
        """
        location = os.fspath(tensor.location)
        where = f"tensor {tensor.name!r}"
        data = self._by_location.get(location)
        if data is None:
            data = self._by_location[location] = self._file(location, where)
        end = (tensor.offset or 0) + tensor.nbytes
        if end > data.size:
            raise _missing(f"The data of {where} ends at byte {end} of {location!r}, which has {data.size} bytes.")
        return MappedTensor(tensor, data)

    def _file(self, location: str, where: str) -> DataFile:
        check_location(location, where)
        folder = next((folder for folder in self._folders if os.path.lexists(folder / location)), None)
        if folder is None:
            raise _missing(f"The data file {location!r} of {where} is not beside the model.")
        self._used = self._used or folder
        real = Path(os.path.realpath(folder / location))
        root = next((root for root in self._roots if real.is_relative_to(root)), None)
        if root is None:
            raise _unsafe(f"The data file {location!r} of {where} is a link to {real}, outside the model's folder.")
        if real not in self._by_path:
            self._by_path[real] = _open(real, root, where)
        return self._by_path[real]


def check_location(location: str, where: str) -> None:
    """Refuse the name of a data file that leads out of the folder by its text alone."""
    if not location or "\0" in location:
        raise _unsafe(f"The name of the data file of {where} is empty or has a NUL in it.")
    windows = PureWindowsPath(location)  # parses both kinds of separators
    if location.startswith(("/", "\\")) or windows.drive:
        raise _unsafe(f"The data file {location!r} of {where} has an absolute path.")
    if ".." in windows.parts:
        raise _unsafe(f"The data file {location!r} of {where} is named through '..'.")


def _open(real: Path, root: Path, where: str) -> DataFile:
    try:
        handle = os.open(real, os.O_RDONLY | _SAFELY)
    except OSError as error:
        raise _missing(f"The data file {real.name!r} of {where} cannot be read: {error.strerror}.") from error
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise _unsafe(f"The data file {real.name!r} of {where} is not a regular file.")
        if status.st_nlink > 1 and _links(root, status) < status.st_nlink:
            raise _unsafe(f"The data file {real.name!r} of {where} has hard links outside the model's folder.")
        mapped = mmap.mmap(handle, 0, access=mmap.ACCESS_READ) if status.st_size else None
    except OSError as error:
        raise _missing(f"The data file {real.name!r} of {where} cannot be mapped: {error.strerror}.") from error
    finally:
        os.close(handle)
    return DataFile(root, real, status.st_size, mapped)


def _links(root: Path, status: os.stat_result) -> int:
    """Count the names below ``root`` of the file that ``status`` describes."""
    found = 0
    for searched, entry in enumerate(_walk(root)):
        found += entry.inode() == status.st_ino and entry.stat(follow_symlinks=False).st_dev == status.st_dev
        if found == status.st_nlink or searched > MAX_FILES_SEARCHED:
            break
    return found


def _walk(folder: Path) -> Iterator[os.DirEntry[str]]:
    pending = [os.fspath(folder)]
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                    else:
                        yield entry
        except PermissionError:
            continue  # what cannot be listed cannot account for a link, so the file is refused


def _missing(message: str) -> ModelFileError:
    return ModelFileError("missing-external-data", message, "Fetch all the files of the model into one folder.")


def _unsafe(message: str) -> ModelFileError:
    return ModelFileError(
        "unsafe-external-data", message, "Copy the data file into the model's folder if you trust the model."
    )
