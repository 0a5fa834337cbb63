"""Models for the tests of timing: small, quick, and of known behaviour."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from normfold.measure import Candidate
from normfold.proof.probes import InputSpec
from normfold.runtime import Runnable

FLOAT = TensorProto.FLOAT
SPEC = InputSpec("x", np.dtype(np.float32), ("N", 64))


def saved(folder: Path, name: str, graph: onnx.GraphProto) -> Path:
    path = folder / f"{name}.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def products(folder: Path, layers: int, name: str = "", width: int = 64, source: str = "x") -> Path:
    """``layers`` products with the identity, so that any number of them computes the same."""
    values = [source, *(f"h{index}" for index in range(layers - 1)), "y"]
    nodes = [helper.make_node("MatMul", [a, "w"], [b], name=b) for a, b in itertools.pairwise(values)]
    graph = helper.make_graph(
        nodes,
        "products",
        [helper.make_tensor_value_info(source, FLOAT, ["N", width])],
        [helper.make_tensor_value_info("y", FLOAT, ["N", width])],
        [numpy_helper.from_array(np.eye(width, dtype=np.float32), "w")],
    )
    return saved(folder, name or f"products{layers}", graph)


def huge(folder: Path) -> Candidate:
    """A constant of 40 GB, which nothing looked at before it runs."""
    graph = helper.make_graph(
        [
            helper.make_node("ConstantOfShape", ["shape"], ["big"]),
            helper.make_node("ReduceSum", ["big"], ["sum"], keepdims=0),
            helper.make_node("Add", ["x", "sum"], ["y"]),
        ],
        "huge",
        [helper.make_tensor_value_info("x", FLOAT, ["N", 64])],
        [helper.make_tensor_value_info("y", FLOAT, ["N", 64])],
        [numpy_helper.from_array(np.array([10_000_000_000], np.int64), "shape")],
    )
    return Candidate("huge", Runnable(saved(folder, "huge", graph), folder), (SPEC,))


def endless(folder: Path) -> Candidate:
    """A loop of 2**40 turns."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["on"], ["on_out"]), helper.make_node("Identity", ["v"], ["v_out"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", FLOAT, ["N", 64]),
        ],
        [
            helper.make_tensor_value_info("on_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v_out", FLOAT, ["N", 64]),
        ],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["trips", "", "x"], ["y"], body=body)],
        "endless",
        [helper.make_tensor_value_info("x", FLOAT, ["N", 64])],
        [helper.make_tensor_value_info("y", FLOAT, ["N", 64])],
        [numpy_helper.from_array(np.array(2**40, np.int64), "trips")],
    )
    return Candidate("endless", Runnable(saved(folder, "endless", graph), folder), (SPEC,))
