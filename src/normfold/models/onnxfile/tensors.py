"""What a tensor claims against what it holds: dimensions, type and data, without copying the data."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from normfold.errors import ModelFileError

if TYPE_CHECKING:
    import onnx

MAX_RANK: Final = 32
"""NumPy 1 cannot hold more axes."""
MAX_BYTES: Final = 2**62
EXTERNAL_KEYS: Final = frozenset({"location", "offset", "length", "checksum", "basepath"})

_DATA_FIELDS: Final = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")


@dataclass(frozen=True, slots=True)
class _Storage:
    """How one element type is stored: width in bits, typed field, and entries of that field per elements."""

    bits: int
    field: str
    entries: int = 1
    elements: int = 1

    def count(self, size: int) -> int:
        return -(-size * self.entries // self.elements)


_BYTE = _Storage(8, "int32_data")
_HALF = _Storage(16, "int32_data")
_NIBBLE = _Storage(4, "int32_data", elements=2)
_CRUMB = _Storage(2, "int32_data", elements=4)
_SIX_BIT = _Storage(6, "int32_data")
_STRING: Final = 8

# Keyed by onnx.proto's TensorProto.DataType; the fields are those that its comments prescribe.
_STORAGE: Final[dict[int, _Storage]] = {
    1: _Storage(32, "float_data"),
    2: _BYTE,
    3: _BYTE,
    4: _HALF,
    5: _HALF,
    6: _Storage(32, "int32_data"),
    7: _Storage(64, "int64_data"),
    _STRING: _Storage(8, "string_data"),
    9: _BYTE,
    10: _HALF,
    11: _Storage(64, "double_data"),
    12: _Storage(32, "uint64_data"),
    13: _Storage(64, "uint64_data"),
    14: _Storage(64, "float_data", entries=2),
    15: _Storage(128, "double_data", entries=2),
    16: _HALF,
    17: _BYTE,
    18: _BYTE,
    19: _BYTE,
    20: _BYTE,
    21: _NIBBLE,
    22: _NIBBLE,
    23: _NIBBLE,
    24: _BYTE,
    25: _CRUMB,
    26: _CRUMB,
    27: _SIX_BIT,
    28: _SIX_BIT,
}


def check_text(*texts: str) -> None:
    """Raise `ModelFileError` ``not-onnx`` for bytes: protobuf hands them out where a string is not UTF-8."""
    if any(type(text) is not str for text in texts):
        raise ModelFileError(
            "not-onnx", "A name in the model is not UTF-8 text.", "The file may be damaged; export the model again."
        )


def check_properties(properties: Iterable[onnx.StringStringEntryProto]) -> None:
    """Apply `check_text` to keys and values."""
    for entry in properties:
        check_text(entry.key, entry.value)


def check_value(value: onnx.ValueInfoProto) -> None:
    """Apply `check_text` to what is said of a value."""
    check_text(value.name, value.doc_string)
    check_properties(value.metadata_props)
    pending = [value.type]
    while pending:
        kind = pending.pop()
        check_text(kind.denotation)
        match kind.WhichOneof("value"):
            case "tensor_type" | "sparse_tensor_type" as which:
                for dim in getattr(kind, which).shape.dim:
                    check_text(dim.denotation, dim.dim_param)
            case "sequence_type" | "optional_type" as which:
                pending.append(getattr(kind, which).elem_type)
            case "map_type":
                pending.append(kind.map_type.value_type)


def check_tensor(tensor: onnx.TensorProto, where: str) -> bool:
    """Check one tensor and tell whether its data is external.

    ``where`` names the tensor in messages. Raises `ModelFileError` ``bad-tensor`` when dimensions,
    type and data do not fit together, ``unsafe-external-data`` for entries that are not understood.
    """
    check_text(tensor.name, tensor.doc_string)
    check_properties(tensor.metadata_props)
    size = _size(tensor, where)
    storage = _STORAGE.get(tensor.data_type)
    if storage is None:
        raise _bad(f"{where} has the unknown element type {tensor.data_type}.")
    if tensor.HasField("segment"):
        raise _bad(f"{where} is stored in segments, which no runtime reads.")
    nbytes = -(-size * storage.bits // 8)
    if tensor.data_location == 1:  # TensorProto.EXTERNAL
        _check_external(tensor, nbytes, where)
        return True
    if tensor.HasField("raw_data"):
        _check_raw(tensor, nbytes, where)
    else:
        _check_typed(tensor, storage, size, where)
    if storage is _SIX_BIT:
        _check_six_bit(tensor, where)
    return False


def check_sparse(sparse: onnx.SparseTensorProto, where: str) -> int:
    """Check a sparse tensor and return the bytes that its dense form takes.

    Raises `ModelFileError` ``bad-tensor``. Indices are compared with the dimensions only when the
    tensor is made dense.
    """
    if check_tensor(sparse.values, f"the values of {where}") or check_tensor(sparse.indices, f"the indices of {where}"):
        raise _bad(f"{where} is sparse and keeps its data in another file.", "Store the tensor densely.")
    size = _size(sparse, where)
    stored = sparse.values.dims[0] if len(sparse.values.dims) == 1 else -1
    if sparse.indices.data_type != 7 or list(sparse.indices.dims) not in ([stored], [stored, len(sparse.dims)]):
        raise _bad(f"{where} has values and indices that do not fit together.")
    bits = _STORAGE[sparse.values.data_type].bits
    if bits < 8 or sparse.values.data_type == _STRING:
        raise _bad(f"{where} is sparse with an element type that has no sparse form.", "Store the tensor densely.")
    return size * bits // 8


def _size(tensor: onnx.TensorProto | onnx.SparseTensorProto, where: str) -> int:
    dims = tensor.dims
    if len(dims) > MAX_RANK:
        raise _bad(f"{where} has {len(dims)} dimensions; at most {MAX_RANK} can be handled.")
    if not dims:
        return 1
    if min(dims) < 0:
        raise _bad(f"{where} has a negative dimension: {list(dims)}.")
    # An axis of 0 must not hide an overflow of the others: array libraries multiply them all.
    if math.prod(max(dim, 1) for dim in dims) * 16 > MAX_BYTES:
        raise _bad(f"{where} has dimensions that overflow: {list(dims)}.")
    return math.prod(dims)


def _check_raw(tensor: onnx.TensorProto, nbytes: int, where: str) -> None:
    if tensor.data_type == _STRING:
        raise _bad(f"{where} holds strings as raw bytes.")
    stored = len(tensor.raw_data)
    if stored != nbytes:
        raise _bad(f"{where} holds {stored} bytes but its dimensions {list(tensor.dims)} need {nbytes}.")
    for name in _DATA_FIELDS:
        if len(getattr(tensor, name)):
            raise _bad(f"{where} holds its data twice, as raw_data and as {name}.")


def _check_typed(tensor: onnx.TensorProto, storage: _Storage, size: int, where: str) -> None:
    for name in _DATA_FIELDS:
        if name != storage.field and len(getattr(tensor, name)):
            raise _bad(f"{where} holds its data as {name}, which does not fit its element type.")
    stored, expected = len(getattr(tensor, storage.field)), storage.count(size)
    if stored != expected:
        raise _bad(f"{where} holds {stored} values but its dimensions {list(tensor.dims)} need {expected}.")


def _check_six_bit(tensor: onnx.TensorProto, where: str) -> None:
    import onnx_ir.serde

    try:
        onnx_ir.serde.serialize_tensor(onnx_ir.serde.TensorProtoTensor(tensor))
    except (onnx_ir.serde.SerdeError, ValueError) as error:
        raise _bad(f"{where} holds values that do not fit into six bits.") from error


def _check_external(tensor: onnx.TensorProto, nbytes: int, where: str) -> None:
    check_properties(tensor.external_data)
    keys = [entry.key for entry in tensor.external_data]
    unknown = sorted(set(keys) - EXTERNAL_KEYS)
    if unknown or len(set(keys)) != len(keys):
        raise ModelFileError(
            "unsafe-external-data",
            f"{where} describes its data file with unknown or repeated keys: {', '.join(unknown or keys)}.",
            f"Only {', '.join(sorted(EXTERNAL_KEYS))} are allowed, once each. Save the model again with onnx.save.",
        )
    if tensor.data_type == _STRING:
        raise _bad(f"{where} keeps strings in another file, which the format forbids.")
    if tensor.HasField("raw_data") or any(len(getattr(tensor, name)) for name in _DATA_FIELDS):
        raise _bad(f"{where} holds its data twice, in the model and in another file.")
    entries = {entry.key: entry.value for entry in tensor.external_data}
    for key in ("offset", "length"):
        value = entries.get(key, "0")
        if not (value.isascii() and value.isdigit() and len(value) < 20):
            raise _bad(f"{where} has an external {key} that is not a byte count: {value[:40]!r}.")
    length = int(entries.get("length", nbytes))
    if length != nbytes:
        raise _bad(f"{where} has {length} bytes of external data but its dimensions need {nbytes}.")


def _bad(message: str, hint: str = "Export the model again; the file may be damaged.") -> ModelFileError:
    return ModelFileError("bad-tensor", message, hint)
