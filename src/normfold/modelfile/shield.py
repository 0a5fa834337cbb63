"""Tensors that read from a caller's proto and cannot write to it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.serde import TensorProtoTensor


class ShieldedTensor(ir.TensorBase):
    """A tensor that reads its bytes from a proto but has a name of its own.

    onnx_ir's class writes its name into the proto whenever the model is serialised, which would
    rename tensors in the model that the caller handed in.
    """

    __slots__ = ("_source",)

    def __init__(self, source: TensorProtoTensor) -> None:
        super().__init__(
            name=source.name, doc_string=source.doc_string or None, metadata_props=dict(source.metadata_props) or None
        )
        self._source = source

    @property
    def dtype(self) -> ir.DataType:
        """Element type."""
        return self._source.dtype

    @property
    def shape(self) -> ir.Shape:
        """Dimensions."""
        return self._source.shape

    @property
    def raw(self) -> object:
        """The proto that holds the bytes."""
        return self._source.raw

    def numpy(self) -> npt.NDArray[np.generic]:
        """Return the values."""
        array: npt.NDArray[np.generic] = self._source.numpy()
        return array

    def __array__(self, dtype: npt.DTypeLike = None, copy: bool | None = None) -> npt.NDArray[np.generic]:
        return np.array(self.numpy(), dtype=dtype, copy=copy) if copy else np.asarray(self.numpy(), dtype=dtype)

    def __dlpack__(self, *, stream: object = None) -> object:
        return self._source.__dlpack__(stream=stream)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._source.__dlpack_device__()

    def tobytes(self) -> bytes:
        """Return the bytes, little endian and packed as the format prescribes."""
        return self._source.tobytes()
