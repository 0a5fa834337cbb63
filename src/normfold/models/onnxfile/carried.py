"""What onnx_ir has no form for, carried past it: training information, and the types of maps.

Both lie in the metadata of the graph, which clones keep and serialisation leaves out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import onnx
import onnx_ir as ir

TRAINING: Final = "normfold.training_info"
TYPES: Final = "normfold.types"

Types = dict[str, bytes]
"""Types of inputs and outputs of the main graph, by name."""


def has_maps(proto: onnx.ModelProto) -> bool:
    """Whether a value is a map, or holds maps."""
    return next(_maps(proto), None) is not None


def take_maps(proto: onnx.ModelProto) -> Types:
    """Take the types of maps out of ``proto``, in place; return those of the main graph's inputs and outputs."""
    types = {value.name: value.type.SerializeToString() for value in _maps(proto)}
    for value in list(_maps(proto)):
        value.ClearField("type")
    return types


def attach(model: ir.Model, proto: onnx.ModelProto, types: Types) -> None:
    """Keep with ``model`` what it could not take over from ``proto``."""
    if proto.training_info:
        model.graph.meta[TRAINING] = [info.SerializeToString() for info in proto.training_info]
    if types:
        # By name: what makes an output may change, its name does not.
        model.graph.meta[TYPES] = types


def put_back(model: ir.Model, proto: onnx.ModelProto) -> None:
    """Complete the ``proto`` that ``model`` was serialised to."""
    for training in model.graph.meta.get(TRAINING, ()):
        proto.training_info.add().ParseFromString(training)
    types: Types = model.graph.meta.get(TYPES, {})
    for info in (*proto.graph.input, *proto.graph.output):
        if info.name in types and not info.HasField("type"):
            info.type.ParseFromString(types[info.name])


def _maps(proto: onnx.ModelProto) -> Iterator[onnx.ValueInfoProto]:
    graph = proto.graph
    return (
        value for values in (graph.input, graph.output, graph.value_info) for value in values if _is_map(value.type)
    )


def _is_map(kind: onnx.TypeProto) -> bool:
    while kind.HasField("sequence_type") or kind.HasField("optional_type"):
        kind = kind.sequence_type.elem_type if kind.HasField("sequence_type") else kind.optional_type.elem_type
    return bool(kind.HasField("map_type"))
