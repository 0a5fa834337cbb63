"""A small valid model to break, and ways to write it."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

WEIGHT = np.arange(1024, dtype=np.float32).reshape(32, 32)


def small_model() -> onnx.ModelProto:
    """x -> MatMul(w) -> Add(bias of a Constant) -> y."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="matmul"),
        helper.make_node("Constant", [], ["b"], name="const", value=numpy_helper.from_array(WEIGHT[0], "b")),
        helper.make_node("Add", ["h", "b"], ["y"], name="add"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", 1, ["n", 32])],
        [helper.make_tensor_value_info("y", 1, ["n", 32])],
        [numpy_helper.from_array(WEIGHT, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def externalise(
    tensor: onnx.TensorProto, location: str, offset: int = 0, length: int | None = None, **more: str
) -> None:
    """Turn ``tensor`` into a reference to a data file."""
    length = len(tensor.raw_data) if length is None else length
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": str(offset), "length": str(length), **more}.items():
        tensor.external_data.add(key=key, value=value)
