"""A model as the bytes of its file, in pieces: at once they would take as much memory again, twice.

The bytes are those of ``SerializeToString(deterministic=True)``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, TypeVar

import onnx
from google.protobuf.message import EncodeError

from normfold.models.onnxfile.reading import MAX_PROTO_BYTES

GRAPH: Final = onnx.ModelProto.GRAPH_FIELD_NUMBER
TENSOR: Final = onnx.GraphProto.INITIALIZER_FIELD_NUMBER
M = TypeVar("M", onnx.ModelProto, onnx.GraphProto)


def pieces(proto: onnx.ModelProto) -> Iterator[bytes]:
    """The bytes of ``proto``, which is used up; those of each initializer by themselves.

    Raises:
        EncodeError: they are more than one file can hold.
    """
    tensors = list(proto.graph.initializer)
    del proto.graph.initializer[:]
    sizes = [tensor.ByteSize() for tensor in tensors]
    first, last = _split(proto.graph, TENSOR)
    stored = sum(len(_prefix(TENSOR, size)) + size for size in sizes)
    proto.ClearField("graph")
    before, after = _split(proto, GRAPH)
    head, tail = before + _prefix(GRAPH, len(first) + stored + len(last)) + first, last + after
    if len(head) + stored + len(tail) > MAX_PROTO_BYTES:
        raise EncodeError(f"more than {MAX_PROTO_BYTES} bytes")
    return _joined(head, tensors, tail)


def _joined(before: bytes, tensors: Sequence[onnx.TensorProto], after: bytes) -> Iterator[bytes]:
    yield before
    for tensor in tensors:
        data = tensor.SerializeToString(deterministic=True)
        yield _prefix(TENSOR, len(data))
        yield data
    yield after


def _split(message: M, number: int) -> tuple[bytes, bytes]:
    """The bytes of the fields of ``message`` before field ``number``, which it has not, and of those after it."""
    whole = message.SerializeToString(deterministic=True)
    for field, _ in message.ListFields():
        if field.number < number:
            message.ClearField(field.name)
    after = message.SerializeToString(deterministic=True)
    return whole[: len(whole) - len(after)], after


def _prefix(number: int, length: int) -> bytes:
    """What stands before a field of ``length`` bytes (protobuf encoding, "Length-Delimited Records")."""
    return bytes([number << 3 | 2]) + _varint(length)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])
