"""Written-out attention becomes one operation of ONNX Runtime's own, and nothing else does."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import normfold
from folding import array, make_feeds, model, run
from normfold.backends.onnx import fuse
from normfold.passes import fuse as fusing
from normfold.runtime import CHECKER

SEQUENCE, KEYS, HEADS, SIZE = 5, 7, 2, 4
HIDDEN = HEADS * SIZE
LONG = 192
"""A sequence from which on attention with a bias is faster in one operation."""

INPUTS = "float[N,5,8] xq, float[N,7,8] xk, float[N,7,8] xv"
MERGE = "o = MatMul(p, v)\nt = Transpose <perm = [0, 2, 1, 3]> (o)\ny = Reshape(t, merged)"


class Spelling(NamedTuple):
    """Attention, line by line; what is not said is as PyTorch writes it."""

    name: str
    queries: str = "q = Transpose <perm = [0, 2, 1, 3]> (q4)"
    keys: str = "k = Transpose <perm = [0, 2, 3, 1]> (k4)"
    values: str = "v = Transpose <perm = [0, 2, 1, 3]> (v4)"
    scores: str = "a = MatMul(q, k)\ns = Mul(a, half)"
    bias: str = ""
    probabilities: str = "p = Softmax <axis = -1> (s)"
    merge: str = MERGE
    inputs: str = INPUTS
    outputs: str = "float[] y"
    sizes: tuple[int, int] = (SEQUENCE, KEYS)
    opset: int = 17

    def proto(self) -> onnx.ModelProto:
        cut = [f"{one}4 = Reshape(x{one}, heads_{one})" for one in "qkv"]
        lines = "\n".join(
            (*cut, self.queries, self.keys, self.values, self.scores, self.bias, self.probabilities, self.merge)
        )
        rows, columns = self.sizes
        constants = {
            "heads_q": np.int64([-1, rows, HEADS, SIZE]),
            "heads_k": np.int64([-1, columns, HEADS, SIZE]),
            "heads_v": np.int64([-1, columns, HEADS, SIZE]),
            "merged": np.int64([-1, rows, HIDDEN]),
            "half": np.float32(0.5),
            "vector": array(columns),
            "table": array(1, 1, rows, columns),
            "row": array(1, 1, 1, columns),
            "flat": array(rows, columns),
        }
        used = {name: values for name, values in constants.items() if f"{name}" in lines}
        return model(self.inputs, lines, used, outputs=self.outputs, opset=self.opset)


def long(name: str, bias: str, **more: str) -> Spelling:
    """With a bias, for sequences of `LONG`."""
    inputs = more.pop("inputs", ", ".join(f"float[N,{LONG},8] x{one}" for one in "qkv"))
    return Spelling(
        name, bias=bias, probabilities="p = Softmax <axis = -1> (b)", sizes=(LONG, LONG), inputs=inputs, **more
    )


FUSED = (
    Spelling("scores times a scale"),
    Spelling("scores divided by one", scores="a = MatMul(q, k)\ns = Div(a, half)"),
    Spelling("no scale", scores="s = MatMul(q, k)"),
    Spelling("scale in front", scores="a = MatMul(q, k)\ns = Mul(half, a)"),
    Spelling("queries scaled", scores="c = Mul(q, half)\ns = MatMul(c, k)"),
    Spelling(
        "both scaled",
        scores="root = Sqrt(half)\nc = Mul(q, root)\nd = Div(k, root)\ne = Mul(d, half)\ns = MatMul(c, e)",
    ),
    Spelling("scaled before the heads are", queries="r = Mul(q4, half)\nq = Transpose <perm = [0, 2, 1, 3]> (r)"),
    Spelling(
        "keys transposed twice",
        keys="r = Transpose <perm = [0, 2, 1, 3]> (k4)\nk = Transpose <perm = [0, 1, 3, 2]> (r)",
    ),
    Spelling("negative scale", scores="a = MatMul(q, k)\nm = Neg(half)\ns = Mul(a, m)"),
    Spelling("axis by its number", probabilities="p = Softmax <axis = 3> (s)"),
    Spelling("softmax of its own default", probabilities="p = Softmax(s)"),
    Spelling("old softmax", probabilities="p = Softmax <axis = 3> (s)", opset=11),
    long("a table", "b = Add(s, table)"),
    long("a table in front", "b = Add(table, s)"),
    long("a row for all", "b = Add(s, row)"),
    long("two dimensions", "b = Add(s, flat)"),
    long("a vector", "b = Add(s, vector)"),
    long(
        "a mask by sample",
        "b = Add(s, mask)",
        inputs=", ".join(f"float[N,{LONG},8] x{one}" for one in "qkv") + f", float[N,1,1,{LONG}] mask",
    ),
)
ALONE = (
    Spelling("another axis", probabilities="p = Softmax <axis = 2> (s)"),
    Spelling("old softmax over more than the last axis", probabilities="p = Softmax(s)", opset=11),
    Spelling("scores that are read", outputs="float[] y, float[] z", merge=f"{MERGE}\nz = Relu(s)"),
    Spelling("scores before their scale", outputs="float[] y, float[] z", merge=f"{MERGE}\nz = Relu(a)"),
    Spelling("probabilities that are read", outputs="float[] y, float[] z", merge=f"{MERGE}\nz = Relu(p)"),
    Spelling("products that are read", outputs="float[] y, float[] z", merge=f"{MERGE}\nz = Relu(o)"),
    Spelling("scores as an output", outputs="float[] y, float[] s"),
    Spelling("probabilities as an output", outputs="float[] y, float[] p"),
    Spelling("a product as an output", outputs="float[] y, float[] o"),
    Spelling("a scale by column", scores="a = MatMul(q, k)\ns = Mul(a, vector)"),
    Spelling("a scale of zero", scores="zero = Sub(half, half)\na = MatMul(q, k)\ns = Mul(a, zero)"),
    Spelling("a scale at run time", inputs=f"{INPUTS}, float half"),
    Spelling(
        "heads nobody knows",
        inputs=f"{INPUTS}, int64[4] heads_q",
    ),
    Spelling("values scaled", values="r = Transpose <perm = [0, 2, 1, 3]> (v4)\nv = Mul(r, half)"),
    Spelling("keys that are values' heads", keys="k = Transpose <perm = [0, 2, 1, 3]> (k4)", sizes=(SIZE, SIZE),
             inputs="float[N,4,8] xq, float[N,4,8] xk, float[N,4,8] xv"),
    Spelling("one sample of keys for all", inputs="float[N,5,8] xq, float[1,7,8] xk, float[N,7,8] xv"),
    Spelling("samples nobody knows are as many", inputs="float[N,5,8] xq, float[M,7,8] xk, float[M,7,8] xv"),
    Spelling("heads and positions merged otherwise", merge="o = MatMul(p, v)\ny = Reshape(o, merged)"),
    Spelling("a short bias", bias="b = Add(s, table)", probabilities="p = Softmax <axis = -1> (b)"),
    long("a bias by two", "b = Add(s, mask)", inputs=", ".join(f"float[N,{LONG},8] x{one}" for one in "qkv")
         + f", float[M,1,1,{LONG}] mask"),
    long("a bias before the scale", "c = Add(a, table)\nb = Mul(c, half)", scores="a = MatMul(q, k)"),
    Spelling("half precision", inputs="float16[N,5,8] xq, float16[N,7,8] xk, float16[N,7,8] xv",
             scores="s = MatMul(q, k)"),
)  # fmt: skip


def assert_same(source: onnx.ModelProto, result: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> None:
    """Up to the rounding of sums in another order."""
    wanted, got = run(source, feeds)["y"], run(result, feeds)["y"]
    assert np.abs(wanted - got).max() <= 4e-6 * np.abs(wanted).max()


def operators(proto: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in proto.graph.node]


@pytest.mark.parametrize("case", FUSED, ids=lambda case: case.name)
def test_written_out_attention_is_one_operation_that_computes_the_same(case: Spelling) -> None:
    source = case.proto()
    copy = ir.from_proto(source)
    found = fuse(copy, CHECKER.infer)
    result = ir.to_proto(copy)
    assert [one.operator for one in found.fusions] == ["com.microsoft::MultiHeadAttention"]
    assert set(operators(result)) <= {"MultiHeadAttention", "Expand", "Constant"}
    assert {one.domain: one.version for one in result.opset_import}["com.microsoft"] == 1
    for batch in (1, 3):
        rng = np.random.default_rng(batch)
        feeds = {
            value.name: rng.standard_normal(
                [one.dim_value or batch for one in value.type.tensor_type.shape.dim]
            ).astype(np.float32)
            for value in source.graph.input
        }
        assert_same(source, result, feeds)


@pytest.mark.parametrize("case", ALONE, ids=lambda case: case.name)
def test_anything_else_is_left_alone(case: Spelling) -> None:
    source = case.proto()
    copy = ir.from_proto(source)
    before = ir.to_proto(copy).SerializeToString(deterministic=True)
    assert fuse(copy, CHECKER.infer).fusions == ()
    assert ir.to_proto(copy).SerializeToString(deterministic=True) == before


PACKED = "r = Reshape(x, cut)\nt5 = Transpose <perm = [2, 0, 3, 1, 4]> (r)\n"
ATTENDED = "k = Transpose <perm = [0, 1, 3, 2]> (k0)\na = MatMul(q, k)\ns = Mul(a, half)\np = Softmax(s)\n"
GATHERED = "q = Gather <axis = 0> (t5, {0})\nk0 = Gather <axis = 0> (t5, {1})\nv = Gather <axis = 0> (t5, {2})\n"
SPLIT = (
    "a0, a1, a2 = Split <axis = 0> (t5, ones)\nq = Squeeze(a0, zero)\nk0 = Squeeze(a1, zero)\nv = Squeeze(a2, zero)\n"
)
EARLY = "r = Reshape(x, cut)\na0, a1, a2 = Split <axis = 2> (r, ones)\n" + "".join(
    f"b{index} = Squeeze(a{index}, two)\n{name} = Transpose <perm = [0, 2, 1, 3]> (b{index})\n"
    for index, name in enumerate(("q", "k0", "v"))
)


def packed(taken: str, length: int = 1024) -> onnx.ModelProto:
    """Queries, keys and values of one product."""
    constants = {
        "cut": np.int64([-1, length, 3, HEADS, SIZE]),
        "ones": np.int64([1, 1, 1]),
        "zero": np.int64([0]),
        "two": np.int64([2]),
        **{f"i{index}": np.int64(index) for index in range(3)},
        "last": np.int64(-1),
        "half": np.float32(0.5),
        "merged": np.int64([0, -1, HIDDEN]),
    }
    used = {name: values for name, values in constants.items() if name in taken + ATTENDED + MERGE}
    return model(f"float[N,{length},24] x", taken + ATTENDED + MERGE, used)


@pytest.mark.parametrize(
    "taken",
    [
        PACKED + GATHERED.format("i0", "i1", "i2"),
        PACKED + GATHERED.format("i1", "i0", "last"),
        PACKED + SPLIT,
        EARLY,
    ],
    ids=["gathered", "in another order", "split", "split before it is transposed"],
)
@pytest.mark.parametrize("opset", [17, 18])
def test_queries_keys_and_values_of_one_product_are_split(taken: str, opset: int) -> None:
    source = packed(taken)
    source.opset_import[0].version = opset
    copy = ir.from_proto(source)
    assert len(fuse(copy, CHECKER.infer).fusions) == 1
    result = ir.to_proto(copy)
    assert operators(result) == ["Split", "MultiHeadAttention"]
    feeds = make_feeds(source)
    assert_same(source, result, feeds)


def test_short_sequences_are_not_split() -> None:
    """Copying the parts apart takes longer than the one operation saves."""
    copy = ir.from_proto(packed(PACKED + SPLIT, 577))
    assert fuse(copy, CHECKER.infer).fusions == ()


def test_another_merge_reads_what_the_operation_makes() -> None:
    """Old exports flatten batch and sequence."""
    case = Spelling("flat", merge="o = MatMul(p, v)\nt = Transpose <perm = [0, 2, 1, 3]> (o)\ny = Reshape(t, rows)")
    source = case.proto()
    source.graph.initializer.append(onnx.numpy_helper.from_array(np.int64([-1, HIDDEN]), "rows"))
    copy = ir.from_proto(source)
    assert len(fuse(copy, CHECKER.infer).fusions) == 1
    result = ir.to_proto(copy)
    assert operators(result) == ["MultiHeadAttention", "Reshape"]
    feeds = make_feeds(source)
    assert_same(source, result, feeds)


def test_an_output_that_is_declared_otherwise_is_what_its_reshape_makes() -> None:
    case = Spelling("all in one", outputs="float[N,5,8] y", merge=MERGE.replace("merged", "rows"))
    source = case.proto()
    source.graph.initializer.append(onnx.numpy_helper.from_array(np.int64([1, -1, HIDDEN]), "rows"))
    copy = ir.from_proto(source)
    assert len(fuse(copy, CHECKER.infer).fusions) == 1
    result = ir.to_proto(copy)
    assert operators(result) == ["MultiHeadAttention", "Reshape"]
    assert_same(
        source,
        result,
        {value.name: array(3, value.type.tensor_type.shape.dim[1].dim_value, HIDDEN) for value in source.graph.input},
    )


def test_a_fold_fuses_where_it_is_asked_to_and_says_so() -> None:
    source = FUSED[0].proto()
    plain, fused = normfold.fold(source), normfold.fold(source, allow_contrib=True)
    assert "fused" not in plain.document()
    assert "com.microsoft" not in {one.domain for one in plain.model.opset_import}
    assert "Softmax" in operators(plain.model)
    assert fused.verification.status == "equivalent"
    assert fused.verification.because != "nothing was changed"
    (found,) = fused.document()["fused"]
    assert found["operator"] == "com.microsoft::MultiHeadAttention"
    assert found["node"] in {node.name for node in fused.model.graph.node}
    assert len(found["replaced"]) == 4
    assert "1 com.microsoft::MultiHeadAttention" in repr(fused)
    assert fused.sizes is not None
    assert fused.sizes[1].nodes == 1


def test_a_result_without_attention_says_that_nothing_was_fused() -> None:
    result = normfold.fold(ALONE[0].proto(), allow_contrib=True)
    assert (result.fused, result.document()["fused"]) == ((), [])
    assert "Softmax" in operators(result.model)


def test_a_fusion_that_spoils_the_result_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    right = fusing.fuse_attention

    def wrong(copy: ir.Model, inference: object) -> object:
        found = right(copy, inference)
        node = next(node for node in copy.graph if node.op_type == "MultiHeadAttention")
        node.attributes["scale"] = ir.AttrFloat32("scale", 3.0)
        return found

    monkeypatch.setattr(fusing, "fuse_attention", wrong)
    result = normfold.fold(FUSED[0].proto(), allow_contrib=True)
    assert (result.verification.status, result.fused) == ("equivalent", ())
    assert "Softmax" in operators(result.model)


def test_modules_have_no_such_operators() -> None:
    nn = pytest.importorskip("torch").nn
    with pytest.raises(normfold.NormfoldError, match="for ONNX models"):
        normfold.fold(nn.Linear(2, 2), np.zeros((1, 2), np.float32), allow_contrib=True)
