"""One operator becomes another, and reads and makes the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from folding import array, make_feeds, model, run
from normfold.backends.onnx import OnnxGraph
from normfold.core.algebra import Affine
from normfold.core.plan import Plan, Replace
from normfold.core.views import Linear, Norm, View
from normfold.runtime import CHECKER

TOKENS = "float[2, 3, 4] x"


def at(graph: OnnxGraph, name: str) -> View:
    return graph.view(next(node for node in graph.nodes() if graph.name(node) == name))


def committed(graph: OnnxGraph, view: View) -> onnx.ModelProto:
    plan = Plan((Replace(view),))
    assert graph.unable(plan) is None
    graph.commit(plan)
    result: onnx.ModelProto = ir.to_proto(graph.model)
    onnx.checker.check_model(result, full_check=True)
    return result


def test_a_layer_normalization_becomes_an_rms_normalization() -> None:
    body = "[norm] y = LayerNormalization <axis = -1, epsilon = 0.001> (x, g, b)"
    source = model(TOKENS, [body], {"g": array(4), "b": array(4, seed=1)}, opset=23, ir_version=10)
    graph = OnnxGraph(ir.from_proto(source), CHECKER.infer)
    view = at(graph, "norm")
    assert isinstance(view, Norm)
    result = committed(graph, replace(view, kind="rms", holds_shift=False, tail=Affine.of(np.full(4, 2.0))))
    assert [node.op_type for node in result.graph.node] == ["RMSNormalization"]
    assert [tensor.name for tensor in result.graph.initializer] == ["g"]
    feeds = make_feeds(source)
    x = feeds["x"]
    wanted = 2 * x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-3)
    np.testing.assert_allclose(run(result, feeds)["y"], wanted, rtol=1e-5)
    assert isinstance(at(graph, "norm"), Norm)


def test_a_matrix_product_gains_a_bias() -> None:
    source = model("float[2, 4] x", ["[product] y = MatMul(x, w)"], {"w": array(4, 3)})
    graph = OnnxGraph(ir.from_proto(source), CHECKER.infer)
    view = at(graph, "product")
    assert isinstance(view, Linear)
    result = committed(graph, replace(view, bias_slot=True, bias=np.array([1.0, 2.0, 3.0])))
    feeds = make_feeds(source)
    np.testing.assert_allclose(run(result, feeds)["y"], run(source, feeds)["y"] + [1, 2, 3], rtol=1e-5)


@pytest.mark.parametrize(
    ("inputs", "body", "change", "opset", "premise"),
    [
        ("float16[2, 3, 4] x", "[it] y = LayerNormalization(x, w)", {"kind": "rms"}, 22, "opset-has-operator"),
        (TOKENS, "[it] y = LayerNormalization(x, w)", {"kind": "group"}, 23, "needs-structure"),
        (TOKENS, "[it] y = MatMul(x, w)", {}, 17, "matrix"),
        ("float[2, 4, 3, 3] x", "[it] y = Conv(x, c)", {}, 17, "needs-structure"),
    ],
)
def test_what_stays_as_it_is(inputs: str, body: str, change: dict[str, str], opset: int, premise: str) -> None:
    held = {"w": array(4) if "Layer" in body else array(4, 3), "c": array(3, 4, 1, 1)}
    if inputs.startswith("float16"):
        held = {name: values.astype(np.float16) for name, values in held.items()}
    graph = OnnxGraph(ir.from_proto(model(inputs, [body], held, opset=opset)), CHECKER.infer)
    refusal = graph.unable(Plan((Replace(replace(at(graph, "it"), **change)),)))
    assert refusal is not None
    assert refusal.premise == premise
