"""Where a weight is stored and what stands before it does not matter; who else reads it does."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from folding import array, model, norm, only_fold, proven_fold, statistics, tensor

IMAGE = "float[1, 4, 5, 5] x"
CONV = "[linear] h = Conv(x, w)"


def constant_node(name: str, values: np.ndarray) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value=tensor(name, values))


def with_constant_nodes(source: onnx.ModelProto) -> onnx.ModelProto:
    nodes = [constant_node(t.name, onnx.numpy_helper.to_array(t)) for t in source.graph.initializer]
    rest = list(source.graph.node)
    del source.graph.initializer[:], source.graph.node[:]
    source.graph.node.extend([*nodes, *rest])
    return source


def test_constant_nodes() -> None:
    source = model(IMAGE, [CONV, norm("h", "y")], {"w": array(3, 4, 1, 1), **statistics(3)})
    folded = proven_fold(with_constant_nodes(source))
    assert folded.operators == ["Conv"]


@pytest.mark.parametrize(
    "form", ["value_float = 2.0", "value_floats = [2.0, -1.0, 0.5]", "value = float[3] {2.0, -1.0, 0.5}"]
)
def test_constant_nodes_with_short_attributes(form: str) -> None:
    body = [f"k = Constant <{form}> ()", "h = MatMul(x, w)", "y = Mul(h, k)"]
    folded = proven_fold(model("float[2, 5, 4] x", body, {"w": array(4, 3)}))
    assert folded.operators == ["MatMul"]


BEHIND = {
    "identity": ((4, 3), "w = Identity(w0)", {}),
    "two-identities": ((4, 3), "w1 = Identity(w0)\nw = Identity(w1)", {}),
    "transpose": ((3, 4), "w = Transpose(w0)", {}),
    "transpose-perm": ((3, 4), "w = Transpose <perm = [1, 0]> (w0)", {}),
    "reshape": ((2, 6), "w = Reshape(w0, to)", {"to": np.array([4, -1])}),
    "reshape-zero": ((4, 3, 1), "w = Reshape(w0, to)", {"to": np.array([0, 3])}),
    "squeeze": ((1, 4, 3), "w = Squeeze(w0, axes)", {"axes": np.array([0])}),
    "unsqueeze": (
        (12,),
        "w1 = Unsqueeze(w0, axes)\nw = Reshape(w1, to)",
        {"axes": np.array([1]), "to": np.array([4, 3])},
    ),
    "flatten": ((4, 3, 1), "w = Flatten(w0)", {}),
    "cast": ((4, 3), "w = Cast <to = 1> (w0)", {}),
    "arithmetic": ((4, 3), "w1 = Mul(w0, two)\nw = Neg(w1)", {"two": np.float32(2)}),
}


@pytest.mark.parametrize("case", BEHIND)
def test_a_weight_behind_an_expression(case: str) -> None:
    shape, before, extra = BEHIND[case]
    weight = array(*shape, dtype=np.float16 if case == "cast" else np.float32)
    body = [before, "[linear] h = MatMul(x, w)", "[scale] y = Mul(h, k)"]
    folded = proven_fold(model("float[2, 5, 4] x", body, {"w0": weight, "k": array(3, seed=2), **extra}))
    assert folded.operators == ["MatMul"]
    assert folded.decision.into == ("linear",)
    assert len(folded.result.graph.initializer) == 1
    assert folded.constant(folded.result.graph.node[0].input[1]).dtype == np.float32


@pytest.mark.slow
def test_a_deep_expression() -> None:
    """Nothing here goes as deep as Python's stack."""
    depth = 3000
    body = [f"w{k + 1} = Identity(w{k})" for k in range(depth)]
    source = model(
        "float[2, 5, 4] x", [*body, f"h = MatMul(x, w{depth})", "y = Mul(h, k)"], {"w0": array(4, 3), "k": array(3)}
    )
    assert only_fold(source).decision.outcome in ("folded", "kept")


@pytest.mark.parametrize("reader", ["MatMul", "Conv"])
def test_an_expression_that_reads_each_of_its_parts_twice(reader: str) -> None:
    """Seen as a tree it has 2^60 parts."""
    depth = 60
    body = [f"w{k + 1} = Mul(w{k}, w{k})" for k in range(depth)]
    weight, shape = (
        (np.ones((4, 3), "f"), "2, 5, 4") if reader == "MatMul" else (np.ones((3, 4, 1, 1), "f"), "1, 4, 5, 5")
    )
    k = array(3) if reader == "MatMul" else array(3, 1, 1)
    source = model(f"float[{shape}] x", [*body, f"h = {reader}(x, w{depth})", "y = Mul(h, k)"], {"w0": weight, "k": k})
    assert only_fold(source).operators == [reader]


def test_an_expression_that_others_read_stays() -> None:
    body = ["w = Transpose(w0)", "h = MatMul(x, w)", "y = Mul(h, k)", "z = MatMul(x, w)"]
    source = model("float[2, 5, 4] x", body, {"w0": array(3, 4), "k": array(3)}, outputs="float[] y, float[] z")
    folded = proven_fold(source)
    assert folded.operators == ["Transpose", "MatMul", "MatMul"]


def test_filled_weights() -> None:
    body = ["w = ConstantOfShape <value = float[1] {0.5}> (shape)", CONV, norm("h", "y")]
    folded = proven_fold(model(IMAGE, body, {"shape": np.array([3, 4, 1, 1]), **statistics(3)}))
    assert folded.operators == ["Conv"]


def test_weights_too_large_to_fill_are_left_alone() -> None:
    body = ["w = ConstantOfShape <value = float[1] {0.5}> (shape)", "[linear] h = Conv(x, w)", norm("h", "y")]
    held = {"shape": np.array([1 << 20, 1 << 20, 1, 1]), **statistics(1 << 20)}
    source = model(f"float[1, {1 << 20}, 5, 5] x", body, held)
    folded = only_fold(source)
    assert folded.decision.outcome == "kept"
    assert "constant" in folded.refused


@pytest.mark.parametrize("op", ["Reshape", "Transpose", "Add"])
def test_constant_expressions_that_make_no_sense_are_refused(op: str) -> None:
    """Such a model does not run; it must not end in a traceback either."""
    before = {"Reshape": "w = Reshape(w0, to)", "Transpose": "w = Transpose <perm = [0]> (w0)", "Add": "w = Add(w0, u)"}
    held = {"w0": array(4, 3), **statistics(3)}
    held |= {"Reshape": {"to": np.array([5, 5])}, "Transpose": {}, "Add": {"u": array(7)}}[op]
    folded = only_fold(model("float[5, 4] x", [before[op], "h = MatMul(x, w)", norm("h", "y")], held))
    assert folded.decision.outcome == "kept"
    assert folded.refused <= {"constant", "known-rank"}


def listed(source: onnx.ModelProto) -> onnx.ModelProto:
    """Every initializer is a graph input as well."""
    source.graph.input.extend(
        helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in source.graph.initializer
    )
    return source


@pytest.mark.parametrize("name", ["w", "s", "b", "m", "v"])
def test_an_initializer_that_a_caller_may_override(name: str) -> None:
    source = model(IMAGE, [CONV, norm("h", "y")], {"w": array(3, 4, 1, 1), **statistics(3)})
    (shape,) = (list(t.dims) for t in source.graph.initializer if t.name == name)
    source.graph.input.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))
    folded = proven_fold(source)
    assert folded.decision.outcome == "kept"
    assert folded.refused - {"not-output"} == {"not-overridable"}
    assert f"'{name}' is also a model input" in folded.because("not-overridable")
    assert [v.name for v in folded.result.graph.input] == ["x", name]


def test_a_bias_that_a_caller_may_override() -> None:
    source = model(
        IMAGE, ["[linear] h = Conv(x, w, c)", norm("h", "y")], {"w": array(3, 4, 1, 1), "c": array(3), **statistics(3)}
    )
    source.graph.input.append(helper.make_tensor_value_info("c", onnx.TensorProto.FLOAT, [3]))
    folded = proven_fold(source)
    assert "not-overridable" in folded.refused
    assert "the bias of Conv 'linear'" in folded.because("not-overridable")


def test_a_name_that_speaks_of_overriding() -> None:
    source = model(
        f"{IMAGE}, float[3] override",
        [CONV, "y = BatchNormalization(h, s, b, override, v)"],
        {"w": array(3, 4, 1, 1), **statistics(3)},
    )
    assert only_fold(source).refused == {"constant"}


@pytest.mark.parametrize(
    "body", [[CONV, norm("h", "y")], ["[linear] h = MatMul(x, w)", "[scale] t = Mul(h, k)", "y = Add(t, d)"]]
)
def test_initializers_are_inputs_before_ir_version_4(body: list[str]) -> None:
    held = (
        {"w": array(3, 4, 1, 1), **statistics(3)}
        if "Conv" in body[0]
        else {"w": array(5, 3), "k": array(3), "d": array(3)}
    )
    source = listed(model(IMAGE, body, held, opset=8, ir_version=3))
    folded = proven_fold(source)
    assert folded.decision.outcome == "folded"
    stored = {t.name: list(t.dims) for t in folded.result.graph.initializer}
    given = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in folded.result.graph.input}
    assert given == stored | {"x": [1, 4, 5, 5]}


def test_names_are_kept_and_new_ones_are_free() -> None:
    held = {"w": array(3, 4, 1, 1), "w_bias": array(3), **statistics(3)}
    body = [CONV, norm("h", "t"), "u = Identity(t)", "w_bias_2 = Add(u, e)", "y = Add(w_bias_2, f)"]
    source = model(
        IMAGE, body, held | {"e": array(3, 5, 5), "f": array(3, 5, 5)}, outputs="float[] y, float[] w_bias_2"
    )
    folded = proven_fold(source)
    assert folded.operators[0] == "Conv"
    names = [n for node in folded.result.graph.node for n in node.output] + [
        t.name for t in folded.result.graph.initializer
    ]
    assert len(names) == len(set(names))


def test_a_value_after_the_norm_keeps_its_name() -> None:
    body = [CONV, norm("h", "t"), "y = Relu(t)"]
    folded = proven_fold(model(IMAGE, body, {"w": array(3, 4, 1, 1), **statistics(3)}))
    assert [list(node.output) for node in folded.result.graph.node] == [["t"], ["y"]]


def test_a_shape_that_is_read_does_not_matter() -> None:
    body = [CONV, "size = Shape(h)", norm("h", "t"), "y = Reshape(t, size)"]
    folded = proven_fold(model("float[N, 4, 5, 5] x", body, {"w": array(3, 4, 1, 1), **statistics(3)}))
    assert folded.operators == ["Conv", "Shape", "Reshape"]


def test_a_shape_of_the_norm_that_is_read() -> None:
    body = [CONV, norm("h", "t"), "size = Shape(t)", "r = Relu(t)", "y = Reshape(r, size)"]
    folded = proven_fold(model("float[N, 4, 5, 5] x", body, {"w": array(3, 4, 1, 1), **statistics(3)}))
    assert folded.operators == ["Conv", "Shape", "Relu", "Reshape"]


def test_unused_constants_go_and_used_ones_stay() -> None:
    held = {"w": array(3, 4, 1, 1), **statistics(3)}
    body = [CONV, norm("h", "y"), "z = Identity(m)"]
    folded = proven_fold(model(IMAGE, body, held, outputs="float[] y, float[3] z"))
    assert {t.name for t in folded.result.graph.initializer} >= {"w", "m"}
    assert "v" not in {t.name for t in folded.result.graph.initializer}


def test_a_weight_that_is_an_output() -> None:
    held = {"w": array(3, 4, 1, 1), **statistics(3)}
    source = model(IMAGE, [CONV, norm("h", "y")], held, outputs="float[] y, float[3, 4, 1, 1] w")
    folded = proven_fold(source)
    assert folded.operators == ["Conv"]
    assert np.array_equal(folded.constant("w"), held["w"])


def test_metadata_stays() -> None:
    source = model(IMAGE, [CONV, norm("h", "y")], {"w": array(3, 4, 1, 1), **statistics(3)})
    source.producer_name, source.doc_string, source.graph.doc_string = "trainer", "a model", "a graph"
    helper.set_model_props(source, {"key": "value"})
    result = only_fold(source).result
    assert (result.producer_name, result.doc_string, result.graph.doc_string) == ("trainer", "a model", "a graph")
    carried = {p.key: p.value for p in result.metadata_props}
    assert carried.pop("normfold.records")
    assert carried == {"key": "value"}


def test_the_zero_biases_of_the_newer_torch_exporter_are_constants() -> None:
    """Without optimisation it writes a missing bias as Expand(CastLike(0, x), Shape(w)): x gives its type only."""
    body = [
        "zero = Constant <value = float {0.0}> ()",
        "typed = CastLike(zero, x)",
        "size = Shape <start = 0, end = 1> (w)",
        "bias = Expand(typed, size)",
        "c = Conv(x, w, bias)",
        norm("c", "n"),
        "other = CastLike(zero, n)",
        "y = Add(n, other)",
    ]
    folded = proven_fold(model("float[N, 3, 6, 6] x", body, {"w": array(4, 3, 3, 3)} | statistics(4)))
    assert "BatchNormalization" not in folded.operators
    assert "Expand" not in folded.operators


def test_shape_inference_leaves_sequences_alone() -> None:
    """The model's own types stay as they are: a sequence is no tensor."""
    body = [
        "parts = SplitToSequence <axis = 1> (x, two)",
        "first = SequenceAt(parts, zero)",
        "c = Conv(first, w)",
        norm("c", "y"),
    ]
    held = {"w": array(4, 2, 1, 1), "two": np.array([2, 2]), "zero": np.array(0)} | statistics(4)
    assert "BatchNormalization" not in proven_fold(model("float[1, 4, 6, 6] x", body, held)).operators
