"""Writing a data file in one pass: each chunk is written, checksummed and flushed at the same time."""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Final, Protocol, Self, runtime_checkable

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from normfold.errors import ModelFileError, NormfoldError, OutputError
from normfold.models.onnxfile.external import MappedTensor

ALIGNMENT: Final = 64
"""Bytes to which each tensor is aligned, so that a mapping of the file can be used by vector loads."""
CHUNK: Final = 8 << 20
FLUSH_EVERY: Final = 64 << 20
_WORTH_A_THREAD: Final = 256 << 10


@runtime_checkable
class Chunked(Protocol):
    """A tensor that is computed piece by piece while it is written, never as a whole."""

    def chunks(self) -> Iterator[npt.NDArray[np.generic]]:
        """Yield C-contiguous little-endian arrays that together are the tensor's bytes.

        A yielded array may be reused for the next one.
        """


class DataWriter:
    """Appends tensors to an open file.

    The digest covers each tensor's place, length and CRC-32. A CRC keeps up with the copying where
    a cryptographic hash would take three times as long; that two contents might share a name is
    dealt with where the name is taken.
    """

    def __init__(self, handle: int) -> None:
        self._handle = handle
        self._offset = 0
        self._crc = 0
        self._digest = hashlib.sha256()
        self._pool = ThreadPoolExecutor(2)
        self._flush: Future[None] | None = None
        self._flushed = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown()

    def append(self, tensor: ir.TensorProtocol) -> int:
        """Write the bytes of ``tensor`` and return the offset at which they start."""
        padding = -self._offset % ALIGNMENT
        self.write(bytes(padding))
        start, self._crc = self._offset, 0
        self._write_tensor(tensor)
        length = self._offset - start
        if length != tensor.nbytes:
            raise NormfoldError("internal", f"Tensor {tensor.name!r} wrote {length} bytes, not {tensor.nbytes}.")
        self._digest.update(struct.pack("<QQI", start, length, self._crc))
        return start

    def finish(self) -> str:
        """Bring everything to the disk and return the digest of the contents, 64 hexadecimal digits."""
        try:
            if self._flush is not None:
                self._flush.result()
            os.fsync(self._handle)
        except OSError as error:
            raise cannot_write("The data file", error) from error
        return self._digest.hexdigest()

    def write(self, data: bytes | memoryview) -> int:
        """Write ``data``; named so that tensors can write to this object as to a file."""
        view = memoryview(data).cast("B")
        for start in range(0, len(view), CHUNK):
            self._write_chunk(view[start : start + CHUNK])
        return len(view)

    def _write_tensor(self, tensor: ir.TensorProtocol) -> None:
        if isinstance(tensor, Chunked):
            for chunk in tensor.chunks():
                self.write(_bytes_of(chunk))
        elif isinstance(tensor, MappedTensor):
            self.write(tensor.buffer())
            tensor.release()
        elif isinstance(tensor, ir.ExternalTensor):
            self._write_foreign(tensor)
        elif tensor.dtype.bitwidth < 8:
            self.write(tensor.tobytes())
        else:
            self.write(_bytes_of(tensor.numpy()))

    def _write_foreign(self, tensor: ir.ExternalTensor) -> None:
        try:
            tensor.tofile(self)
        except OSError as error:
            raise ModelFileError(
                "missing-external-data", f"The data of tensor {tensor.name!r} cannot be read: {error}"
            ) from error
        except ValueError as error:
            raise ModelFileError("unsafe-external-data", f"Tensor {tensor.name!r}: {error}") from error

    def _write_chunk(self, view: memoryview) -> None:
        if len(view) < _WORTH_A_THREAD:
            self._checksum(view)
            self._put(view)
        else:
            checksum = self._pool.submit(self._checksum, view)
            try:
                self._put(view)
            finally:
                checksum.result()  # the caller may reuse the memory
        self._offset += len(view)
        self._flush_early()

    def _checksum(self, view: memoryview) -> None:
        self._crc = zlib.crc32(view, self._crc)

    def _put(self, view: memoryview) -> None:
        try:
            while len(view):
                view = view[os.write(self._handle, view) :]
        except OSError as error:
            raise cannot_write("The data file", error) from error

    def _flush_early(self) -> None:
        """Have the disk busy while the next chunks are made, so that the final flush has little left to do."""
        idle = self._flush is None or self._flush.done()
        if idle and self._offset - self._flushed >= FLUSH_EVERY:
            self._flushed = self._offset
            self._flush = self._pool.submit(os.fsync, self._handle)


def cannot_write(what: str, error: OSError) -> OutputError:
    """Turn an operating system's refusal into the error that the user sees."""
    return OutputError(
        "output-not-writable",
        f"{what} cannot be written: {error.strerror or error}.",
        "Choose a folder that exists, may be written to and has room.",
    )


def _bytes_of(array: npt.NDArray[np.generic]) -> memoryview:
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("<"))
    # Through uint8: the types of ml_dtypes offer no buffer of their own.
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
