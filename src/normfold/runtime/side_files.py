"""Reading what lies beside a model: arrays, profiles, figures. None of it is trusted.

A named pipe does not keep anybody waiting, a small file cannot ask for much memory, and nothing is nested without end.
"""

from __future__ import annotations

import json
import math
import os
import stat
import struct
import zipfile
import zlib
from contextlib import closing
from typing import IO, TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from numpy.typing import NDArray

File = str | os.PathLike[str]

MAX_JSON_BYTES: Final = 64 << 20
MAX_ARRAY_BYTES: Final = 2 << 30
"""Of all arrays of one file together."""
MAX_ARRAYS: Final = 10_000
METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Those that NumPy writes."""
NPY: Final = b"\x93NUMPY"
DAMAGED: Final = (
    EOFError,
    OverflowError,
    RecursionError,
    RuntimeError,
    SyntaxError,
    TypeError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What zipfile and NumPy raise besides ValueError."""


def open_regular(path: File) -> IO[bytes]:
    """Open a regular file for reading.

    Raises:
        OSError: there is none, it may not be read, or it is a folder, a pipe or a device.
    """
    # Without O_NONBLOCK a named pipe would wait for its other end for ever.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError("it is a directory or a special file")
    return os.fdopen(handle, "rb")


def read_json(path: File) -> Any:
    """The document in a JSON file.

    Raises:
        OSError: as `open_regular`.
        ValueError: it is no JSON, larger than `MAX_JSON_BYTES`, or nested too deeply.
    """
    with open_regular(path) as file:
        data = file.read(MAX_JSON_BYTES + 1)
    if len(data) > MAX_JSON_BYTES:
        raise ValueError(f"it has more than {MAX_JSON_BYTES >> 20} MiB")
    try:
        return json.loads(data.decode("utf-8"))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def read_npz(path: File) -> dict[str, NDArray[Any]]:
    """The arrays of an ``.npz`` file by name.

    Raises:
        OSError: as `open_regular`.
        ValueError: it is none, or its arrays take more than `MAX_ARRAY_BYTES`.
    """
    with open_regular(path) as file:
        if file.read(len(NPY)) == NPY:
            raise ValueError("it holds a single array; save it with numpy.savez(file, name=array)")
        file.seek(0)
        try:
            with zipfile.ZipFile(file) as archive:
                _check(archive.infolist())
                return {info.filename.removesuffix(".npy"): _member(archive, info) for info in archive.infolist()}
        except DAMAGED as error:
            raise ValueError(str(error) or "it is damaged") from error
        except MemoryError as error:
            raise ValueError("an array is larger than the memory") from error


def map_npy(path: File) -> NDArray[Any]:
    """The array of an ``.npy`` file, read from the disk as it is used.

    Raises:
        OSError: as `open_regular`.
        ValueError: it is none, or holds Python objects.
    """
    with open_regular(path) as file:
        return _mapped(path, file, 0, os.fstat(file.fileno()).st_size)


def map_npz(path: File) -> dict[str, NDArray[Any]]:
    """The arrays of an ``.npz`` file by name; those that are not compressed are read from the disk as they are used.

    Raises:
        OSError: as `open_regular`.
        ValueError: it is none, or its compressed arrays take more than `MAX_ARRAY_BYTES`.
    """
    with open_regular(path) as file:
        if file.read(len(NPY)) == NPY:
            raise ValueError("it holds a single array; name the file .npy")
        file.seek(0)
        try:
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
                stored = {one.filename for one in members if one.compress_type == zipfile.ZIP_STORED}
                _check([one for one in members if one.filename not in stored or one.flag_bits & 1])
                found: dict[str, NDArray[Any]] = {}
                for info in members:
                    name = info.filename.removesuffix(".npy")
                    if info.filename in stored:
                        # Opening it checks its local header; its data follow that at once.
                        with closing(archive.open(info)):
                            found[name] = _mapped(path, file, _data_offset(file, info), info.file_size)
                    else:
                        found[name] = _member(archive, info)
                return found
        except DAMAGED as error:
            raise ValueError(str(error) or "it is damaged") from error
        except MemoryError as error:
            raise ValueError("an array is larger than the memory") from error


def _data_offset(file: IO[bytes], info: zipfile.ZipInfo) -> int:
    """Where the data of ``info`` begin: behind its local header (APPNOTE 4.3.7) of 30 bytes, its name and extras."""
    file.seek(info.header_offset + 26)
    name, extra = struct.unpack("<HH", file.read(4))
    return int(info.header_offset + 30 + name + extra)


def _mapped(path: File, file: IO[bytes], offset: int, size: int) -> NDArray[Any]:
    """The array whose header begins at ``offset``, of which ``size`` bytes are its own: what follows is another's."""
    import numpy as np

    file.seek(offset)
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    needed, room = math.prod(shape) * dtype.itemsize, offset + size - file.tell()
    if min(shape, default=0) < 0 or needed > room:
        raise ValueError(f"an array of the shape {shape} has {needed} bytes, and there are {max(room, 0)}")
    if not all(shape):
        return np.empty(shape, dtype)
    order: Literal["F", "C"] = "F" if fortran else "C"
    return np.memmap(path, dtype=dtype, mode="r", offset=file.tell(), shape=shape, order=order)


def _check(members: list[zipfile.ZipInfo]) -> None:
    if len(members) > MAX_ARRAYS:
        raise ValueError(f"it has {len(members)} arrays; at most {MAX_ARRAYS} are read")
    for member in members:
        if member.compress_type not in METHODS or member.flag_bits & 1:
            raise ValueError(f"{member.filename!r} is encrypted, or compressed as NumPy never does")
    if sum(member.file_size for member in members) > MAX_ARRAY_BYTES:
        raise ValueError(f"its arrays have more than {MAX_ARRAY_BYTES >> 30} GiB")


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> NDArray[Any]:
    import numpy as np

    with closing(archive.open(info)) as stream:
        array: NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
    return array
