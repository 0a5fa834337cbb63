"""ONNX Runtime's own values (``OrtValue``) from NumPy arrays and back, the types that NumPy lacks included."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any, Final

from normfold.runtime.workers.arrays import extended_type
from normfold.runtime.workers.protocol import RefusedError

if TYPE_CHECKING:
    from normfold.runtime.workers.arrays import Array

EXTENDED_TYPES: Final[dict[str, tuple[str, int]]] = {
    "tensor(bfloat16)": ("bfloat16", 16),
    "tensor(float8e4m3fn)": ("float8_e4m3fn", 17),
    "tensor(float8e4m3fnuz)": ("float8_e4m3fnuz", 18),
    "tensor(float8e5m2)": ("float8_e5m2", 19),
    "tensor(float8e5m2fnuz)": ("float8_e5m2fnuz", 20),
}
"""ONNX Runtime's name of a type that NumPy lacks, to ml_dtypes' name and ONNX's number for it."""


def to_value(array: Array, device: str = "cpu") -> Any:
    """``array`` as ONNX Runtime's own value, in the memory of ``device``."""
    import numpy as np
    import onnxruntime

    numbers = dict(EXTENDED_TYPES.values())
    if array.dtype.name not in numbers:
        return onnxruntime.OrtValue.ortvalue_from_numpy(np.asarray(array, order="C"), device, 0)
    bits = np.asarray(array, order="C").view(np.dtype(f"u{array.dtype.itemsize}"))
    return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, numbers[array.dtype.name])


def to_array(name: str, value: Any) -> Array:
    """The array in the value of the output ``name``.

    Raises:
        RefusedError: it holds none.
    """
    import numpy as np

    if not value.is_tensor():
        raise RefusedError("unsupported", f"output {name!r} is a {value.data_type()}, not a tensor")
    if value.data_type() not in EXTENDED_TYPES:
        array: Array = value.numpy()
        return array
    dtype = extended_type(EXTENDED_TYPES[value.data_type()][0])
    size = value.tensor_size_in_bytes()
    bits = (ctypes.c_char * size).from_address(value.data_ptr()) if size else b""
    return np.frombuffer(bits, dtype=dtype).reshape(value.shape()).copy()
