"""Small models that the tests of the verbs share."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def initializer(name: str, array: np.ndarray) -> onnx.TensorProto:
    return numpy_helper.from_array(array.astype(np.float32), name)


def norm_constants(prefix: str, channels: int, rng: np.random.Generator) -> list[onnx.TensorProto]:
    """Live statistics: some scales negative, no variance near zero."""
    return [
        initializer(f"{prefix}.scale", rng.uniform(0.5, 1.5, channels) * rng.choice([-1, 1], channels)),
        initializer(f"{prefix}.bias", rng.standard_normal(channels)),
        initializer(f"{prefix}.mean", rng.standard_normal(channels)),
        initializer(f"{prefix}.var", rng.uniform(0.5, 2, channels)),
    ]


def norm_node(prefix: str, before: str, after: str) -> onnx.NodeProto:
    names = [f"{prefix}.{part}" for part in ("scale", "bias", "mean", "var")]
    return helper.make_node("BatchNormalization", [before, *names], [after], name=prefix)


def model(
    nodes: list[onnx.NodeProto], constants: list[onnx.TensorProto], domains: tuple[str, ...] = ()
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", None, None, None])],
        constants,
    )
    opsets = [helper.make_opsetid("", 17), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def conv_bn(seed: int = 0) -> onnx.ModelProto:
    """Two times Conv -> BatchNormalization -> Relu: both norms fold."""
    rng = np.random.default_rng(seed)
    constants = [
        initializer("w1", rng.standard_normal((4, 3, 3, 3))),
        initializer("w2", rng.standard_normal((5, 4, 1, 1))),
    ]
    constants += norm_constants("bn1", 4, rng) + norm_constants("bn2", 5, rng)
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c1"], name="conv1", pads=[1, 1, 1, 1]),
        norm_node("bn1", "c1", "n1"),
        helper.make_node("Relu", ["n1"], ["r1"], name="relu1"),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], name="conv2"),
        norm_node("bn2", "c2", "n2"),
        helper.make_node("Relu", ["n2"], ["y"], name="relu2"),
    ]
    return model(nodes, constants)


def no_norm() -> onnx.ModelProto:
    """Nothing to fold."""
    return model([helper.make_node("Relu", ["x"], ["y"], name="relu")], [])


def lone_norm() -> onnx.ModelProto:
    """A norm with no linear operation to absorb it."""
    constants = norm_constants("bn", 3, np.random.default_rng(0))
    return model([helper.make_node("Relu", ["x"], ["r"], name="relu"), norm_node("bn", "r", "y")], constants)


def custom() -> onnx.ModelProto:
    """Conv -> BatchNormalization, then an operator that no evaluator knows."""
    rng = np.random.default_rng(0)
    constants = [initializer("w", rng.standard_normal((4, 3, 1, 1))), *norm_constants("bn", 4, rng)]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv"),
        norm_node("bn", "c", "n"),
        helper.make_node("Mystery", ["n"], ["y"], name="mystery", domain="com.example"),
    ]
    return model(nodes, constants, ("com.example",))
