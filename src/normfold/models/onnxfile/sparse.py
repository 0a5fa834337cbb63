"""Sparse tensors made dense: onnx_ir has no sparse form and would drop them without a word."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx_ir import serde

from normfold.errors import ModelFileError
from normfold.models.onnxfile.graphs import graphs


def densify(proto: onnx.ModelProto) -> None:
    """Replace, in place, each sparse initializer by a dense one and each sparse Constant by a dense one.

    ``proto`` has passed `check_structure`. Raises `ModelFileError` ``bad-tensor`` for an index
    outside the dimensions.
    """
    for graph in graphs(proto):
        graph.initializer.extend(_dense(sparse) for sparse in graph.sparse_initializer)
        graph.ClearField("sparse_initializer")
        _densify_constants(graph.node)
    for function in proto.functions:
        _densify_constants(function.node)


def _densify_constants(nodes: Sequence[onnx.NodeProto]) -> None:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.SPARSE_TENSOR:
                attribute.t.CopyFrom(_dense(attribute.sparse_tensor))
                attribute.ClearField("sparse_tensor")
                attribute.name, attribute.type = "value", onnx.AttributeProto.TENSOR


def _dense(sparse: onnx.SparseTensorProto) -> onnx.TensorProto:
    name, dims = sparse.values.name, tuple(sparse.dims)
    values = serde.deserialize_tensor(sparse.values).numpy()
    indices = serde.deserialize_tensor(sparse.indices).numpy()
    dense = np.zeros(dims, dtype=values.dtype)
    try:
        flat = np.ravel_multi_index(tuple(indices.T), dims) if indices.ndim == 2 else indices
        if flat.size and flat.min() < 0:
            raise IndexError("negative index")
        dense.reshape(-1)[flat] = values
    except (IndexError, ValueError) as error:
        raise ModelFileError(
            "bad-tensor",
            f"The sparse tensor {name!r} has an index outside its dimensions {list(dims)}.",
            "Export the model again; the file may be damaged.",
        ) from error
    return onnx.TensorProto(name=name, dims=dims, data_type=sparse.values.data_type, raw_data=dense.tobytes())
