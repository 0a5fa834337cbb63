"""Models in sixteen bits: what stays in float32, and why."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import numpy_helper, parser

from normfold.backends.onnx import OnnxGraph
from normfold.backends.onnx.bounds import bounds
from normfold.backends.onnx.halves import Halved, halve
from normfold.runtime import CHECKER

HALF = ir.DataType.FLOAT16


def model(body: str, x: str = "float[2, 8]", y: str = "float[2, 8]", **held: np.ndarray) -> onnx.ModelProto:
    proto = parser.parse_model(f'<ir_version: 9, opset_import: ["" : 20]> case ({x} x) => ({y} y) {{ {body} }}')
    proto.graph.initializer.extend(numpy_helper.from_array(np.asarray(one), name) for name, one in held.items())
    return proto


def halved(proto: onnx.ModelProto, **known: float) -> tuple[onnx.ModelProto, Halved]:
    graph = OnnxGraph(ir.from_proto(proto), CHECKER.infer)
    found = halve(graph, HALF, bounds(graph, known))
    result = ir.to_proto(graph.model)
    onnx.checker.check_model(result, full_check=True)
    return result, found


def run(proto: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    return onnxruntime.InferenceSession(proto.SerializeToString()).run(None, {"x": x})[0]


def matrix(size: float = 1.0) -> np.ndarray:
    return (size * np.random.default_rng(0).standard_normal((8, 8))).astype(np.float32)


def sample() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((2, 8)).astype(np.float32)


def test_inputs_and_outputs_keep_their_types_and_weights_take_half_the_bytes():
    proto = model("[a] h = MatMul(x, w) [b] r = Relu(h) [c] y = MatMul(r, v)", w=matrix(), v=matrix())
    result, found = halved(proto, x=4.0)
    assert set(found.because.values()) == {""}
    assert [node.op_type for node in result.graph.node] == ["Cast", "MatMul", "Relu", "MatMul", "Cast"]
    kinds = {one.name: one.type.tensor_type.elem_type for one in (*result.graph.input, *result.graph.output)}
    assert set(kinds.values()) == {onnx.TensorProto.FLOAT}
    read = {name for node in result.graph.node for name in node.input}
    halves = [one for one in result.graph.initializer if one.name in read]
    assert {one.data_type for one in halves} == {onnx.TensorProto.FLOAT16}
    assert np.abs(run(proto, sample()) - run(result, sample())).max() < 0.05


def test_a_value_that_may_overflow_stays_in_float32_and_what_bounds_itself_does_not():
    body = "[a] h = MatMul(x, w) [b] s = Mul(h, h) [c] t = Tanh(s) [d] y = MatMul(t, w)"
    proto = model(body, w=matrix(30.0))
    result, found = halved(proto, x=4.0)
    # |h| is below 4 * 30 * 8 * 3, its square is not below 65504; a hyperbolic tangent is below one whatever it reads.
    assert not found.because["a"]
    assert "'s'" in found.because["b"]
    assert "'s'" in found.because["c"]
    assert not found.because["d"]
    x = 4 * sample()
    assert np.isfinite(run(result, x)).all()
    assert np.abs(run(proto, x) - run(result, x)).max() < 0.01 * np.abs(run(proto, x)).max()


def test_without_anything_known_of_an_input_nothing_bounds_what_reads_it():
    proto = model(
        "[a] h = MatMul(x, w) [n] n = LayerNormalization(h, g, b) [c] y = MatMul(n, w)",
        w=matrix(),
        g=np.ones(8, np.float32),
        b=np.ones(8, np.float32),
    )
    _, found = halved(proto)
    assert "nothing bounds 'x'" in found.because["a"]
    assert "nothing bounds 'h'" in found.because["n"]
    assert not found.because["c"]  # at most the root of eight, and the bias


@pytest.mark.parametrize(("size", "fits"), [(60.0, True), (300.0, False)])
def test_what_is_squared_on_the_way_has_to_fit_as_well(size, fits):
    body = "[n] n = InstanceNormalization(x, g, b) [a] y = Relu(n)"
    shape = "float[1, 4, 3, 3]"
    proto = model(body, shape, shape, g=np.ones(4, np.float32), b=np.zeros(4, np.float32))
    _, found = halved(proto, x=size)
    assert bool(found.because["n"]) is not fits
    assert not found.because["a"]


def test_what_is_summed_on_the_way_has_to_fit_as_well():
    proto = model("[p] y = GlobalAveragePool(x)", "float[1, 4, 100, 100]", "float[1, 4, 1, 1]")
    assert halved(proto, x=100.0)[1].because["p"]
    assert not halved(proto, x=2.0)[1].because["p"]


def test_sizes_that_an_operator_reads_stay_float32():
    body = '[r] h = Resize <mode = "nearest"> (x, , scales) [a] y = Relu(h)'
    proto = model(body, "float[1, 2, 4, 4]", "float[1, 2, 8, 8]", scales=np.array([1, 1, 2, 2], np.float32))
    result, found = halved(proto, x=1.0)
    assert set(found.because.values()) == {""}
    kinds = {one.name: one.data_type for one in result.graph.initializer}
    assert kinds["scales"] == onnx.TensorProto.FLOAT


def test_a_weight_that_overflows_keeps_its_operation():
    proto = model("[a] y = Add(x, w)", w=np.full((2, 8), 1e5, np.float32))
    assert "'w'" in halved(proto, x=1.0)[1].because["a"]


def test_a_product_with_rows_of_a_softmax_is_an_average():
    body = "[s] p = Softmax <axis = -1> (x) [a] y = MatMul(p, q)"
    proto = model(body, q=matrix(1000.0))
    graph = OnnxGraph(ir.from_proto(proto), CHECKER.infer)
    found = bounds(graph, {"x": 1.0})
    largest = float(np.abs(matrix(1000.0)).max())
    assert found[graph.model.graph.outputs[0]] <= 8 * largest
    assert np.abs(run(proto, sample())).max() <= found[graph.model.graph.outputs[0]]


def test_a_body_reads_float32_from_around_it():
    body = """[a] h = MatMul(x, w) [c] k = Constant <value = bool {1}> ()
        [i] z = If (k) <then_branch = t () => (float[2, 8] p) { p = Neg(h) },
                        else_branch = e () => (float[2, 8] q) { q = Neg(x) }>
        [r] y = Relu(h)"""
    proto = model(body, w=matrix())
    proto.graph.output.append(onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, [2, 8]))
    result, found = halved(proto, x=4.0)
    assert found.because["i"] == "it holds a graph of its own"
    assert not found.because["a"]
    onnxruntime.InferenceSession(result.SerializeToString()).run(None, {"x": sample()})


@pytest.mark.parametrize("seed", range(6))
def test_bounds_hold(seed):
    generator = np.random.default_rng(seed)
    body = """c = Conv <pads = [1, 1, 1, 1]> (x, w, b) r = Relu(c) p = AveragePool <kernel_shape = [2, 2]> (r)
        t = ConvTranspose(p, u) k = Clip(t, low, high) s = Add(k, t) g = Mul(s, k) d = Div(g, high)
        y = Concat <axis = 1> (d, t)"""
    proto = model(
        body,
        "float[1, 3, 6, 6]",
        "float[N, M, P, Q]",
        w=generator.standard_normal((4, 3, 3, 3)).astype(np.float32),
        b=generator.standard_normal(4).astype(np.float32),
        u=generator.standard_normal((4, 2, 3, 3)).astype(np.float32),
        low=np.float32(-1.5),
        high=np.float32(3.0),
    )
    graph = OnnxGraph(ir.from_proto(proto), CHECKER.infer)
    found = {value.name: bound for value, bound in bounds(graph, {"x": 2.0}).items()}
    names = [node.output[0] for node in proto.graph.node if node.output[0] != "y"]
    proto.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    x = generator.choice([-2.0, 2.0], (1, 3, 6, 6)).astype(np.float32)
    for name, values in zip(["y", *names], session.run(None, {"x": x}), strict=True):
        assert np.abs(values).max() <= found[name] * (1 + 1e-5)
