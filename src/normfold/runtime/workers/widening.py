"""A model in float64: the same operations on the same weights, so that what it computes is nearly free of rounding."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import ml_dtypes
import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from normfold.runtime.workers.arrays import Array

NARROW: Final = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16})
"""Types that become float64."""
NAMING: Final = frozenset({"to", "dtype", "stash_type"})
"""Attributes that name a type."""
BODIES: Final = (AttributeProto.GRAPH, AttributeProto.GRAPHS)
STASHING: Final = {"GroupNormalization": 21, "RMSNormalization": 23}
"""Operators that compute in float32 unless they are told another type, from which opset on."""


def widened(model: onnx.ModelProto) -> onnx.ModelProto:
    """``model``, whose tensors are in memory, in float64; it is used up."""
    opset = next((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), 1)
    for graph in _graphs(model.graph):
        # Inference finds them again.
        del graph.value_info[:]
        for tensor in graph.initializer:
            _widen(tensor)
        for value in (*graph.input, *graph.output):
            if value.type.tensor_type.elem_type in NARROW:
                value.type.tensor_type.elem_type = TensorProto.DOUBLE
        _widen_nodes(graph.node, opset)
    for function in model.functions:
        del function.value_info[:]
        _widen_nodes(function.node, opset)
    return model


def widened_feeds(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """The same inputs for a model in float64."""
    narrow = (np.dtype(np.float32), np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))
    return {name: array.astype(np.float64) if array.dtype in narrow else array for name, array in arrays.items()}


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs) if attribute.type in BODIES else ():
                yield from _graphs(body)


def _widen_nodes(nodes: Iterable[onnx.NodeProto], opset: int) -> None:
    for node in nodes:
        for attribute in node.attribute:
            _widen_attribute(attribute)
        given = {attribute.name for attribute in node.attribute}
        if node.op_type == "ConstantOfShape" and not given:
            node.attribute.append(_attribute("value", numpy_helper.from_array(np.zeros(1))))
        if opset >= STASHING.get(node.op_type, opset + 1) and "stash_type" not in given:
            node.attribute.append(_attribute("stash_type", TensorProto.DOUBLE))


def _widen_attribute(attribute: AttributeProto) -> None:
    if attribute.name in NAMING and attribute.i in NARROW:
        attribute.i = TensorProto.DOUBLE
    if attribute.name in ("value_float", "value_floats"):
        values = attribute.f if attribute.type == AttributeProto.FLOAT else list(attribute.floats)
        attribute.CopyFrom(_attribute("value", numpy_helper.from_array(np.asarray(values, dtype=np.float64))))
    for tensor in (attribute.t, *attribute.tensors):
        _widen(tensor)


def _attribute(name: str, value: Any) -> AttributeProto:
    return helper.make_attribute(name, value)


def _widen(tensor: TensorProto) -> None:
    if tensor.data_type in NARROW:
        array = np.asarray(numpy_helper.to_array(tensor), dtype=np.float64)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
