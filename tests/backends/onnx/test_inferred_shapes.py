"""Shapes come from inference before anything is decided; what the model states counts where it is no contradiction."""

from __future__ import annotations

from concurrent.futures import Future
from itertools import pairwise

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import parser

import normfold
from folding import array, model, norm, only_fold, statistics
from normfold.backends.onnx import OnnxGraph
from normfold.backends.onnx.reading.inference import Found
from normfold.runtime import CHECKER


def shapes(source: onnx.ModelProto, inference=CHECKER.infer) -> dict[str, tuple[int | str | None, ...] | None]:
    """What the graph knows of each value that a node makes."""
    graph = OnnxGraph(ir.from_proto(source), inference)
    return {output.name or "": graph.shape(output) for node in graph.nodes() for output in node.outputs}


def parsed(text: str) -> onnx.ModelProto:
    return parser.parse_model('<ir_version: 8, opset_import: ["": 17, "other": 1]>' + text)


WEIGHT = "float[3, 3, 1, 1] w = {1, 0, 0, 0, 1, 0, 0, 0, 1}"


def test_a_stated_shape_that_contradicts_inference_is_not_believed() -> None:
    found = shapes(
        parsed(f"""m (float[1, 3, 4, 4] x) => (float[1, 3, 9, 9] y) <{WEIGHT}, float[1, 3, 9, 9] c, float[7] d> {{
            c = Conv(x, w)
            d = Relu(c)
            e = Relu(d)
            y = Neg(e) }}""")
    )
    assert set(found.values()) == {(1, 3, 4, 4)}


@pytest.mark.parametrize(("version", "known"), [(3, (2, 3)), (8, None)])
def test_sizes_that_a_caller_can_override_say_nothing(version: int, known: tuple[int, ...] | None) -> None:
    """Before IR version 4 every initializer is an input, and none can be overridden."""
    source = model("float[6] x, int64[2] t", "y = Reshape(x, t)", {"t": np.int64([2, 3])}, ir_version=version)
    source.graph.output[0].type.tensor_type.ClearField("shape")
    assert shapes(source)["y"] == known


def test_what_inference_cannot_know_is_believed_beside_a_contradiction() -> None:
    found = shapes(
        parsed(f"""m (float[1, 3, 4, 4] x) => (y) <{WEIGHT}, float[7] c, float[2, 5] o> {{
            c = Conv(x, w)
            o = other.Make(c)
            y = Relu(o) }}""")
    )
    assert found == {"c": (1, 3, 4, 4), "o": (2, 5), "y": (2, 5)}


@pytest.mark.parametrize(("sizes", "asked"), [("4, 6", 1), ("N, 6", 2)])
def test_shapes_are_inferred_again_only_where_some_size_is_no_number(sizes: str, asked: int) -> None:
    source = parsed(f"""m (float[{sizes}] x) => (y) <int64[1] one = {{1}}, int64[1] two = {{2}}> {{
        rest = Neg(one)
        t = Concat<axis = 0>(rest, two)
        y = Reshape(x, t) }}""")
    calls = []

    def inference(data: bytes, *, follow: bool) -> Future[Found | None]:
        calls.append(data)
        return CHECKER.infer(data, follow=follow)

    found = shapes(source, inference)
    assert found["y"] is not None
    assert found["y"][1] == 2
    assert len(calls) == asked


def test_a_stated_size_is_kept_where_inference_has_none() -> None:
    found = shapes(
        parsed("""m (float[N, 4] x, int64[2] s) => (y) <float[3, 5] r> {
            r = Reshape(x, s)
            y = Relu(r) }""")
    )
    assert found == {"r": (3, 5), "y": (3, 5)}


@pytest.mark.parametrize("line", ["c = Conv(u, w)", "c = ConvTranspose(u, w)"])
def test_a_convolution_has_the_rank_of_its_weight_and_so_has_what_follows(line: str) -> None:
    found = shapes(
        parsed(f"""m (float[1, 3, 4, 4] x) => (y) <{WEIGHT}> {{
            u = other.Make(x)
            {line}
            d = Relu(c)
            y = Neg(d) }}""")
    )
    assert found["d"] == found["y"]
    assert found["y"] is not None
    assert (len(found["y"]), found["y"][1]) == (4, 3)


def test_a_weight_that_a_node_holds_has_a_rank_too() -> None:
    found = shapes(
        parsed("""m (float[1, 3, 4, 4] x) => (y) {
            w = Constant <value = float[3, 3, 1, 1] {1, 0, 0, 0, 1, 0, 0, 0, 1}> ()
            u = other.Make(x)
            c = Conv(u, w)
            y = Neg(c) }""")
    )
    assert found["y"] is not None
    assert (len(found["y"]), found["y"][1]) == (4, 3)


def test_a_norm_of_onnx_runtime_whose_statistics_are_read_has_a_shape() -> None:
    """Nothing that onnx knows stands in for its second output, so that the node stays."""
    source = parser.parse_model("""<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]>
    m (float[1, 3, 4] x) => (y, z) <float[4] s = {1, 1, 1, 1}> {
        n, mean = com.microsoft.SkipLayerNormalization(x, x, s)
        y = Neg(n)
        z = Neg(mean) }""")
    assert shapes(source)["y"] == (1, 3, 4)


def test_known_rank_is_no_reason_behind_a_convolution_of_an_unknown_input() -> None:
    body = ["c = Conv(x, w)", "r = Relu(c)", norm("r", "n"), "y = Conv(n, w)"]
    source = model("float[] x", body, {"w": array(3, 3, 1, 1), **statistics(3)})
    source.graph.input[0].type.tensor_type.ClearField("shape")
    assert [decision.outcome for decision in only_fold(source).decisions.values()] == ["folded"]


def test_without_an_answer_the_model_is_believed() -> None:
    def silent(_model: bytes, *, follow: bool) -> Future[Found | None]:
        future: Future[Found | None] = Future()
        future.set_result(None)
        return future

    source = parsed(
        f"m (float[1, 3, 4, 4] x) => (y) <{WEIGHT}, float[1, 3, 9, 9] c> {{ c = Conv(x, w)\n y = Relu(c) }}"
    )
    assert shapes(source, silent) == {"c": (1, 3, 9, 9), "y": None}


def test_weights_stay_where_they_are() -> None:
    sent: list[bytes] = []

    def watched(data: bytes, *, follow: bool) -> Future[Found | None]:
        sent.append(data)
        return CHECKER.infer(data, follow=follow)

    source = model("float[1, 64, 4, 4] x", ["c = Conv(x, w)", "y = Relu(c)"], {"w": array(64, 64, 3, 3)})
    assert shapes(source, watched)["y"] == (1, 64, 2, 2)
    assert len(sent[0]) < 2000


@pytest.mark.parametrize("line", ["y = Identity(c)", norm("c", "y"), "y = Mul(c, one)", "t = Relu(c)\ny = Identity(t)"])
def test_a_declared_output_shape_never_gets_weaker(line: str) -> None:
    held = {"w": array(3, 3, 1, 1), **statistics(3), "one": np.ones(1, np.float32)}
    source = model("float[N, 3, H, 4] x", ["c = Conv(x, w)", line], held)
    dims = source.graph.output[0].type.tensor_type.shape.dim
    dims[0].dim_value, dims[2].dim_value = 2, 4
    source.graph.value_info.append(onnx.helper.make_tensor_value_info("c", onnx.TensorProto.FLOAT, ["N", 3, "H", 4]))
    done = normfold.fold(source, verify=False)
    assert done.model.graph.output[0] == source.graph.output[0]


def test_sizes_that_sizes_depend_on_are_inferred_with_one_copy_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[onnx.ModelProto] = []

    def inference(data: bytes, *, follow: bool) -> Future[Found | None]:
        asked.append(onnx.load_model_from_string(data))
        return CHECKER.infer(data, follow=follow)

    copies = []
    clone = ir.Model.clone
    monkeypatch.setattr(ir.Model, "clone", lambda model: copies.append(model) or clone(model))
    found = shapes(
        parsed("""m (float[2, 3, 4] x) => (y) <int64[2] h = {24, 4}, int64[2] t = {2, 2}, int64[2] o = {1, 1}> {
            n = Div(h, t)
            a = Reshape(x, n)
            s = Shape(a)
            g = Div(s, o)
            y = Reshape(x, g) }"""),
        inference,
    )
    assert (found["a"], found["y"]) == ((12, 2), (12, 2))
    assert len(asked) > 2, "the second Reshape is known only once the first one is"
    assert len(copies) == 1
    known = [{tensor.name for tensor in model.graph.initializer} for model in asked]
    assert all(before < after for before, after in pairwise(known)), "each says what the one before said, and more"
