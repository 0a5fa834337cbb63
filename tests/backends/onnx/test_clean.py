"""Cleaning takes out what changes no bit, and nothing else."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import parser

from folding import model, run, tensor
from normfold.backends.onnx import remove_dead_weight
from normfold.backends.onnx.clean.computing import computed
from normfold.runtime import CHECKER


class Case(NamedTuple):
    """A body that reads ``x``, and the operators that are left of it, in order."""

    name: str
    body: str
    left: str
    inputs: str = "float[2,3,4] x"
    outputs: str = "float[] y"
    opset: int = 17
    constants: dict[str, Any] = {}  # noqa: RUF012 - a NamedTuple's default, never written to
    functions: str = ""


SHAPE = "s = Shape(x)\nzero = Constant <value = int64[1] {0}> ()\none = Constant <value = int64[1] {1}> ()\n"
BATCH = f"{SHAPE} n = Slice(s, zero, one)\n"

CASES = (
    Case("a constant's node", "c = Constant <value = float {2.0}> ()\ny = Mul(x, c)", "Mul"),
    Case("constants as attributes", "c = Constant <value_ints = [3, 8]> ()\ny = Reshape(x, c)", "Reshape"),
    Case("a constant that is an output", "y = Constant <value = float {2.0}> ()", "Constant"),
    Case("a dead chain", "a = Relu(x)\nb = Exp(a)\ny = Neg(x)", "Neg"),
    Case("an identity", "a = Identity(x)\nb = Relu(a)\ny = Identity(b)", "Relu"),
    Case("an identity of an input", "y = Identity(x)", "Identity"),
    Case(
        "an identity of another output", "y = Relu(x)\nz = Identity(y)", "Relu Identity", outputs="float[] y, float[] z"
    ),
    Case("an identity of a constant", "y = Identity(c)", "Identity", constants={"c": np.ones(3, np.float32)}),
    Case("repeated nodes", "a = Relu(x)\nb = Relu(x)\ny = Add(a, b)", "Relu Add"),
    Case(
        "nodes that read equal constants",
        "a = Add(x, p)\nb = Add(x, q)\ny = Mul(a, b)",
        "Add Mul",
        constants={"p": np.float32([3]), "q": np.float32([3])},
    ),
    Case(
        "zeros of either sign are two",
        "a = Div(x, p)\nb = Div(x, q)\ny = Sub(a, b)",
        "Div Div Sub",
        constants={"p": np.float32([0]), "q": np.float32([-0.0])},
    ),
    Case(
        "attributes of either sign are two",
        "a = Elu <alpha = 0.0> (x)\nb = Elu <alpha = -0.0> (x)\ny = Div(a, b)",
        "Elu Elu Div",
    ),
    Case("repeated outputs of the graph", "y = Relu(x)\nz = Relu(x)", "Relu Relu", outputs="float[] y, float[] z"),
    Case(
        "arithmetic on constants",
        "a = Add(c, d)\nb = Mul(a, a)\ny = Sub(x, b)",
        "Sub",
        constants={"c": np.float32([0.1, 0.2, 0.3, 0.4]), "d": np.float32([1e-9, 3, -0.4, 1e9])},
    ),
    Case(
        "half arithmetic, which runtimes round when they like",
        "a = Add(c, d)\nb = Cast <to = 1> (a)\ny = Sub(x, b)",
        "Add Cast Sub",
        constants={"c": np.float16([0.1]), "d": np.float16([3])},
    ),
    Case(
        "roots, which not every runtime rounds alike",
        "a = Sqrt(c)\ny = Mul(x, a)",
        "Sqrt Mul",
        constants={"c": np.float32([3])},
    ),
    Case(
        "a constant that would grow the file",
        "a = ConstantOfShape(c)\nb = ReduceSum <keepdims = 0> (a)\ny = Mul(x, b)",
        "ConstantOfShape ReduceSum Mul",
        constants={"c": np.int64([1000, 1000])},
    ),
    Case(
        "a weight that is transposed",
        "t = Transpose <perm = [1, 0]> (w)\ny = MatMul(x, t)",
        "MatMul",
        constants={"w": np.arange(20, dtype=np.float32).reshape(5, 4)},
    ),
    Case(
        "truth values",
        "a = Less(c, d)\nb = Not(a)\ne = Cast <to = 1> (b)\ny = Add(x, e)",
        "Add",
        constants={"c": np.int64([1]), "d": np.int64([2])},
    ),
    Case(
        "a float that no integer holds",
        "a = Cast <to = 7> (c)\nb = Cast <to = 1> (a)\ny = Mul(x, b)",
        "Cast Cast Mul",
        constants={"c": np.float32([1e30])},
    ),
    Case("dropout", "a = Dropout(x)\ny = Relu(a)", "Relu"),
    Case("dropout whose mask is read", "a, m = Dropout(x)\nn = Cast <to = 1> (m)\ny = Add(a, n)", "Dropout Cast Add"),
    Case("a cast to the own type", "a = Relu(x)\nb = Cast <to = 1> (a)\ny = Neg(b)", "Relu Neg"),
    Case("a cast to another type", "a = Cast <to = 7> (x)\nb = Cast <to = 1> (a)\ny = Neg(b)", "Cast Cast Neg"),
    Case(
        "two transpositions",
        "a = Transpose <perm = [1, 2, 0]> (x)\nb = Transpose <perm = [1, 0, 2]> (a)\ny = Relu(b)",
        "Transpose Relu",
    ),
    Case(
        "a transposition and back",
        "a = Transpose <perm = [1, 2, 0]> (x)\nb = Transpose <perm = [2, 0, 1]> (a)\ny = Relu(b)",
        "Relu",
    ),
    Case(
        "a transposition that others read",
        "a = Transpose <perm = [1, 2, 0]> (x)\nb = Transpose <perm = [1, 0, 2]> (a)\n"
        "c = ReduceSum <keepdims = 0> (a)\ny = Add(b, c)",
        "Transpose Transpose ReduceSum Add",
    ),
    Case(
        "reshapes",
        "a = Reshape(x, p)\nb = Reshape(a, q)\ny = Relu(b)",
        "Reshape Relu",
        constants={"p": np.int64([6, 4]), "q": np.int64([4, 6])},
    ),
    Case(
        "a reshape that copies a size from one",
        "a = Reshape(x, p)\nb = Reshape(a, q)\ny = Relu(b)",
        "Reshape Relu",
        constants={"p": np.int64([6, 4]), "q": np.int64([0, 2, 2])},
    ),
    Case("a reshape to what it is", "a = Reshape(x, p)\ny = Relu(a)", "Relu", constants={"p": np.int64([2, -1, 4])}),
    Case(
        "a squeeze undone",
        "a = Unsqueeze(x, p)\nb = Squeeze(a, p)\ny = Relu(b)",
        "Relu",
        constants={"p": np.int64([1])},
    ),
    Case(
        "another squeeze",
        "a = Unsqueeze(x, p)\nb = Squeeze(a, q)\ny = Relu(b)",
        "Unsqueeze Squeeze Relu",
        inputs="float[1,3,4] x",
        constants={"p": np.int64([1]), "q": np.int64([0])},
    ),
    Case(
        "a slice of everything",
        "a = Slice(x, p, q, r)\ny = Relu(a)",
        "Relu",
        constants={"p": np.int64([0]), "q": np.int64([3]), "r": np.int64([1])},
    ),
    Case(
        "a slice",
        "a = Slice(x, p, q, r)\ny = Relu(a)",
        "Slice Relu",
        constants={"p": np.int64([0]), "q": np.int64([2]), "r": np.int64([1])},
    ),
    Case(
        "slices of two axes",
        "a = Slice(x, p, q, r, t)\nb = Slice(a, p, q, u, t)\ny = Relu(b)",
        "Slice Relu",
        constants={"p": np.int64([1]), "q": np.int64([9]), "r": np.int64([1]), "u": np.int64([-1]), "t": np.int64([2])},
    ),
    Case(
        "slices of one axis",
        "a = Slice(x, p, q, r)\nb = Slice(a, p, q, u)\ny = Relu(b)",
        "Slice Slice Relu",
        constants={"p": np.int64([1]), "q": np.int64([9]), "r": np.int64([2]), "u": np.int64([-1])},
    ),
    Case("padding with nothing", "a = Pad(x, p)\ny = Relu(a)", "Relu", constants={"p": np.int64([0] * 6)}),
    Case("one to concatenate", "a = Concat <axis = 1> (x)\ny = Relu(a)", "Relu"),
    Case("an expansion to what it is", "a = Expand(x, p)\ny = Relu(a)", "Relu", constants={"p": np.int64([1, 4])}),
    Case("an expansion", "a = Expand(x, p)\ny = Relu(a)", "Expand Relu", constants={"p": np.int64([2, 1, 1, 1])}),
    Case("times one", "a = Mul(p, x)\nb = Div(a, p)\ny = Relu(b)", "Relu", constants={"p": np.float32([1])}),
    Case(
        "plus zero, which takes the sign from one",
        "a = Add(x, p)\ny = Div(p, a)",
        "Add Div",
        constants={"p": np.float32([0])},
    ),
    Case(
        "times one of a higher rank",
        "a = Mul(x, p)\ny = Relu(a)",
        "Mul Relu",
        constants={"p": np.ones((1, 1, 1, 1), np.float32)},
    ),
    Case(
        "all elements in order, in another shape",
        "a = Reshape(x, p)\nb = Gather <axis = 1> (a, i)\ny = Relu(b)",
        "Reshape Relu",
        inputs="float[N,3,4] x",
        constants={"p": np.int64([-1, 12]), "i": np.int64([[0, 1, 2, 3, 4, 5], [6, 7, -4, 9, 10, 11]])},
    ),
    Case(
        "all elements in another order",
        "a = Gather <axis = 1> (x, i)\ny = Relu(a)",
        "Gather Relu",
        inputs="float[N,4] x",
        constants={"i": np.int64([[1, 0], [2, 3]])},
    ),
    Case(
        "all elements but one",
        "a = Gather <axis = 1> (x, i)\ny = Relu(a)",
        "Gather Relu",
        inputs="float[N,4] x",
        constants={"i": np.int64([[0], [1], [2]])},
    ),
    Case(
        "known sizes",
        f"{SHAPE} a = Gather(s, one)\nb = Concat <axis = 0> (a, one)\nc = Expand(k, b)\n"
        "d = Reshape(x, e)\ny = Add(c, d)",
        "Reshape Add",
        constants={"k": np.float32([7]), "e": np.int64([2, 4, 3, 1])},
    ),
    Case(
        "a free size that a reshape finds",
        f"{BATCH} t = Concat <axis = 0> (n, c)\na = Reshape(x, t)\ny = Relu(a)",
        "Reshape Relu",
        inputs="float[N,3,4] x",
        constants={"c": np.int64([12])},
    ),
    Case(
        "a free size of another value",
        f"{BATCH} t = Concat <axis = 0> (n, c)\na = Reshape(z, t)\ny = Relu(a)",
        "Reshape Relu",
        inputs="float[N,3,4] x, float[M,4,3] z",
        constants={"c": np.int64([12])},
    ),
    Case(
        "two free sizes",
        "s = Shape(x)\nt = Concat <axis = 0> (s, c)\na = Reshape(x, t)\ny = Relu(a)",
        "Reshape Relu",
        inputs="float[N,M] x",
        constants={"c": np.int64([1])},
    ),
    Case(
        "two free sizes, one in another place",
        "s = Shape(x)\nn = Gather(s, i)\nt = Concat <axis = 0> (n, c)\na = Reshape(x, t)\ny = Relu(a)",
        "Shape Gather Concat Reshape Relu",
        inputs="float[N,M] x",
        constants={"i": np.int64([1, 0]), "c": np.int64([1])},
    ),
    Case(
        "an expansion by free sizes",
        f"{SHAPE} t = Concat <axis = 0> (s, one)\na = Unsqueeze(x, p)\nb = Expand(a, t)\ny = Relu(b)",
        "Shape Concat Unsqueeze Expand Relu",
        inputs="float[N,3] x",
        constants={"p": np.int64([2])},
    ),
    Case(
        "a branch that hands out an outer value",
        "c = Cast <to = 9> (k)\ny = If (c) <then_branch = t () => (float[] a) "
        "{ a = Identity(x) }, else_branch = e () => (float[] b) { d = Constant <value = float {3.0}> ()\n"
        "g = Identity(d)\nh = Constant <value = float {3.0}> ()\ni = Add(g, h)\nb = Mul(x, i) }>",
        "Cast Identity Mul If",
        inputs="float[2,3,4] x, int64 k",
        outputs="float[2,3,4] y",
    ),
    Case(
        "a dead branch",
        "c = Cast <to = 9> (k)\nz = Relu(x)\nd = If (c) <then_branch = t () => (float[] a) "
        "{ a = Identity(z) }, else_branch = e () => (float[] b) { b = Neg(z) }>\ny = Neg(x)",
        "Neg",
        inputs="float[2,3,4] x, int64 k",
    ),
    Case(
        "a reshape that copies a free size of another axis",
        "a = Reshape(x, p)\nb = Reshape(a, q)\ny = Relu(b)",
        "Reshape Reshape Relu",
        inputs="float[3,N,4] x",
        constants={"p": np.int64([-1, 12]), "q": np.int64([0, 2, 6])},
    ),
    Case(
        "a reshape that copies a free size through others",
        f"{BATCH} r = Relu(x)\nc = Conv(r, w)\na = Flatten(c)\ng = Gemm(a, v)\nt = Concat <axis = 0> (n, e)\n"
        "y = Reshape(g, t)",
        "Relu Conv Flatten Gemm Reshape",
        inputs="float[N,3,4] x",
        constants={
            "w": np.ones((2, 3, 1), np.float32),
            "v": np.ones((8, 6), np.float32),
            "e": np.int64([3, -1]),
        },
    ),
    Case(
        "a transposition of ones",
        "a = Transpose <perm = [1, 2, 0]> (x)\nb = Reshape(a, p)\ny = Relu(b)",
        "Reshape Relu",
        inputs="float[1,N,4] x",
        constants={"p": np.int64([-1, 2, 2])},
    ),
    Case(
        "a transposition of more",
        "a = Transpose <perm = [1, 2, 0]> (x)\nb = Reshape(a, p)\ny = Relu(b)",
        "Transpose Reshape Relu",
        constants={"p": np.int64([3, 8])},
    ),
    Case(
        "an axis behind a reshape",
        "a = Reshape(x, p)\nb = Unsqueeze(a, q)\ny = Relu(b)",
        "Reshape Relu",
        constants={"p": np.int64([0, 12]), "q": np.int64([-1, 1])},
    ),
    Case(
        "an axis before what a reshape copies",
        "a = Reshape(x, p)\nb = Unsqueeze(a, q)\ny = Relu(b)",
        "Reshape Unsqueeze Relu",
        inputs="float[N,3,4] x",
        constants={"p": np.int64([0, 12]), "q": np.int64([0])},
    ),
    Case(
        "an axis less behind a reshape",
        "a = Reshape(x, p)\nb = Squeeze(a, q)\ny = Relu(b)",
        "Reshape Relu",
        constants={"p": np.int64([2, 1, 12]), "q": np.int64([1])},
    ),
    Case(
        "concatenations",
        "a = Concat <axis = 1> (x, x)\nb = Concat <axis = -2> (x, a, x)\ny = Relu(b)",
        "Concat Relu",
    ),
    Case(
        "concatenations along other axes",
        "a = Concat <axis = 1> (x, x)\nb = Concat <axis = 0> (a)\nc = Concat <axis = 0> (b, b)\n"
        "d = Concat <axis = 2> (c, c)\ny = Relu(d)",
        "Concat Concat Concat Relu",
    ),
    Case(
        "a weight that is cut and joined",
        "a = Slice(w, zero, two)\nb = Slice(w, two, end)\nc = Concat <axis = 0> (b, a)\ny = MatMul(x, c)",
        "MatMul",
        constants={
            "w": np.arange(1024, dtype=np.float32).reshape(4, 256),
            "zero": np.int64([0]),
            "two": np.int64([2]),
            "end": np.int64([9]),
        },
    ),
    Case(
        "a weight that is cut and joined for one of two",
        "a = Slice(w, zero, two)\nb = Slice(w, two, end)\nc = Concat <axis = 0> (b, a)\nd = MatMul(x, c)\n"
        "e = MatMul(x, w)\ny = Add(d, e)",
        "Slice Slice Concat MatMul MatMul Add",
        constants={
            "w": np.arange(1024, dtype=np.float32).reshape(4, 256),
            "zero": np.int64([0]),
            "two": np.int64([2]),
            "end": np.int64([9]),
        },
    ),
    Case(
        "the number of axes",
        "s = Shape(x)\nn = Size(s)\ny = Cast <to = 1> (n)",
        "Cast",
        inputs="float[N,3] x",
    ),
    Case(
        "a branch that is always taken",
        "r = Shape(x)\nn = Size(r)\nc = Equal(n, k)\nd = Relu(x)\n"
        "y, z = If (c) <then_branch = t () => (float[] a, float[] b) "
        "{ u = Constant <value = float {3.0}> ()\na = Mul(d, u)\nb = Neg(a) }, else_branch = e () => "
        "(float[] f, float[] g) { f = Exp(d)\ng = Exp(x) }>",
        "Relu Mul Neg",
        inputs="float[N,3] x",
        outputs="float[N,3] y, float[N,3] z",
        constants={"k": np.int64(2)},
    ),
    Case(
        "branches with values of the same names",
        "a = Relu(x)\nb = If (c) <then_branch = t () => (float[] f) { v = Neg(a)\nf = Exp(v) }, "
        "else_branch = e () => (float[] g) { g = Neg(a) }>\n"
        "d = If (no) <then_branch = t2 () => (float[] h) { h = Neg(a) }, "
        "else_branch = e2 () => (float[] f) { v = Abs(a)\nf = Sqrt(v) }>\ny = Add(b, d)",
        "Relu Neg Exp Abs Sqrt Add",
        constants={"c": np.bool_(True), "no": np.bool_(False)},
    ),
    Case(
        "a branch that depends on the data",
        "m = ReduceSum <keepdims = 0> (x)\nc = Cast <to = 9> (m)\ny = If (c) <then_branch = t () => (float[] a) "
        "{ a = Neg(x) }, else_branch = e () => (float[] b) { b = Exp(x) }>",
        "ReduceSum Cast Neg Exp If",
        outputs="float[2,3,4] y",
    ),
    Case(
        "an initializer that callers may set",
        "a = Mul(x, k)\ny = Relu(a)",
        "Mul Relu",
        inputs="float[2,3,4] x, float k",
        constants={"k": np.float32(1)},
    ),
    Case(
        "calls of a function",
        "a = local.F(x)\nb = local.F(x)\ny = Add(a, b)",
        "F F Add Identity",
        functions='<domain: "local", opset_import: ["": 17]> F (p) => (q) { q = Identity(p) }',
    ),
)


def source_of(case: Case) -> onnx.ModelProto:
    imports = '"local": 1' if case.functions else ""
    return model(
        case.inputs,
        case.body,
        case.constants,
        outputs=case.outputs,
        opset=case.opset,
        functions=case.functions,
        imports=imports,
    )


def feeds_of(proto: onnx.ModelProto, free: int) -> dict[str, np.ndarray]:
    held = {tensor.name for tensor in proto.graph.initializer}
    feeds = {}
    for value in proto.graph.input:
        kind = value.type.tensor_type
        shape = [dim.dim_value or free for dim in kind.shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        if value.name not in held:
            feeds[value.name] = np.random.default_rng(free).integers(-3, 4, shape).astype(dtype)
    return feeds


def operators(cleaned: ir.Model) -> str:
    inner = [node.op_type for function in cleaned.functions.values() for node in function]
    return " ".join([*(node.op_type for node in cleaned.graph.all_nodes()), *inner])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_is_left_gives_the_same_bits(case: Case) -> None:
    source = source_of(case)
    cleaned = ir.from_proto(source)
    found = remove_dead_weight(cleaned, CHECKER.infer)
    result = ir.to_proto(cleaned)
    assert sorted(operators(cleaned).split()) == sorted(case.left.split())
    assert found.after == len(case.left.split())
    assert result.graph.input == source.graph.input
    assert result.graph.output == source.graph.output
    onnx.checker.check_model(result, full_check=True)
    for free in (2, 5):
        before, after = (run(proto, feeds_of(source, free)) for proto in (source, result))
        for name, wanted in before.items():
            assert wanted.tobytes() == after[name].tobytes(), name
            assert wanted.shape == after[name].shape, name


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_name_that_stays_means_the_same(case: Case) -> None:
    """Of a value that goes, the one is known that holds the same."""
    source = source_of(case)
    cleaned = ir.from_proto(source)
    moved = remove_dead_weight(cleaned, CHECKER.infer).moved
    result = ir.to_proto(cleaned)
    made = {name for node in source.graph.node for name in node.output if name}
    left = {name for node in result.graph.node for name in node.output} | {t.name for t in result.graph.initializer}
    pairs = {name: moved.get(name, name) for name in made}
    inputs = {value.name for value in source.graph.input}
    assert made & left | {name for name, now in moved.items() if now and name in made} <= set(pairs)
    for name, now in pairs.items():
        assert now is None or now in left | inputs
        if now is not None and now not in inputs:
            before, after = value_of(source, name), value_of(result, now)
            assert before.tobytes() == after.tobytes(), name


def value_of(proto: onnx.ModelProto, name: str) -> np.ndarray:
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    held = next((t for t in copy.graph.initializer if t.name == name), None)
    if held is not None:
        return onnx.numpy_helper.to_array(held)
    del copy.graph.output[:]
    copy.graph.output.append(onnx.ValueInfoProto(name=name))
    inferred = onnx.shape_inference.infer_shapes(copy)
    known = {value.name: value for value in (*inferred.graph.value_info, *proto.graph.output)}
    if name in known:
        copy.graph.output[0].CopyFrom(known[name])
    return run(copy, feeds_of(proto, 2))[name]


def test_what_is_random_is_not_merged() -> None:
    body = """a = RandomNormalLike <seed = 1.0> (x)
b = RandomNormalLike <seed = 1.0> (x)
c = Bernoulli(x)
d = Bernoulli(x)
y = Sum(a, b, c, d)"""
    cleaned = ir.from_proto(model("float[2] x", body))
    assert not remove_dead_weight(cleaned, CHECKER.infer).changed


def test_operators_of_unknown_domains_are_not_merged() -> None:
    body = "a = other.Draw(x)\nb = other.Draw(x)\ny = Sub(a, b)"
    cleaned = ir.from_proto(model("float[2] x", body, imports='"other": 1'))
    assert not remove_dead_weight(cleaned, CHECKER.infer).changed


def test_half_of_a_complex_number_is_no_number() -> None:
    """No operator of onnx multiplies them; a file may say so all the same."""
    cleaned = ir.from_proto(
        model("complex64[2] x", "y = Div(x, c)", {"c": np.complex64([1 + 2j])}, outputs="complex64[2] y")
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not remove_dead_weight(cleaned, CHECKER.infer).changed


@pytest.mark.parametrize(("is_test", "left"), [(1, "Relu"), (0, "Dropout Relu")])
def test_dropout_before_opset_7_says_what_it_does(is_test: int, left: str) -> None:
    proto = model("float[2] x", f"a = Dropout <is_test = {is_test}> (x)\ny = Relu(a)", opset=6)
    cleaned = ir.from_proto(proto)
    remove_dead_weight(cleaned, CHECKER.infer)
    assert operators(cleaned) == left


def test_before_ir_version_4_no_constant_comes_in() -> None:
    """Each would be an input, which callers see."""
    proto = model("float[2] x", "c = Constant <value = float {2.0}> ()\ny = Mul(x, c)", opset=8, ir_version=3)
    cleaned = ir.from_proto(proto)
    assert not remove_dead_weight(cleaned, CHECKER.infer).changed
    assert operators(cleaned) == "Constant Mul"


def test_cleaning_twice_finds_nothing() -> None:
    for case in CASES:
        cleaned = ir.from_proto(source_of(case))
        remove_dead_weight(cleaned, CHECKER.infer)
        assert not remove_dead_weight(cleaned, CHECKER.infer).changed, case.name


def test_a_declared_shape_never_gets_weaker() -> None:
    proto = model("float[N,3] x", "a = Relu(x)\ny = Identity(a)", outputs="float[5,3] y")
    proto.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 5
    cleaned = ir.from_proto(proto)
    remove_dead_weight(cleaned, CHECKER.infer)
    assert list(cleaned.graph.outputs[0].shape) == [5, 3]
    assert cleaned.graph.outputs[0].name == "y"


@pytest.mark.parametrize(
    "body",
    [
        "a = Transpose <perm = [1, 0]> (x)\nb = Transpose <perm = [5, 7]> (a)\ny = Relu(b)",
        "a = Slice(x, p, p, q)\nb = Slice(a, p, p, q)\ny = Relu(b)",
        "a = Reshape(x, p)\nb = Unsqueeze(a, q)\ny = Relu(b)",
        "a = Gather <axis = 9> (q, p)\ny = Add(x, a)",
        "a = Div(p, z)\nb = Cast <to = 1> (a)\ny = Add(x, b)",
        "a = Concat <axis = 7> (p, q)\ny = Expand(x, a)",
    ],
)
def test_what_does_not_fit_its_operator_stays(body: str) -> None:
    constants = {"p": np.int64([3]), "q": np.int64([-40]), "z": np.int64([0])}
    proto = parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> m (float[2,3] x) => (float[] y) {{ {body} }}')
    proto.graph.initializer.extend(tensor(name, values) for name, values in constants.items())
    cleaned = ir.from_proto(proto)
    remove_dead_weight(cleaned, CHECKER.infer)
    assert sorted(operators(cleaned).split()) == sorted(node.op_type for node in proto.graph.node)


def test_a_wrong_declaration_is_not_brought_to_light() -> None:
    """Runtimes warn of it, but strict inference rejects a model in which it shows."""
    constants = {"c": np.int64([3, 4])}
    proto = model("float[N,12] x", f"{BATCH} t = Concat <axis = 0> (n, c)\ny = Reshape(x, t)", constants)
    proto.graph.output[0].type.CopyFrom(onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, ["N", "M"]))
    cleaned = ir.from_proto(proto)
    remove_dead_weight(cleaned, CHECKER.infer)
    assert operators(cleaned) == "Shape Slice Concat Reshape"


def test_a_constant_that_doubles_is_computed_only_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def counted(node: ir.Node, arguments: Any) -> Any:
        found = computed(node, arguments)
        made.append(found.nbytes)
        return found

    monkeypatch.setattr("normfold.backends.onnx.clean.cones.computed", counted)
    monkeypatch.setattr("normfold.backends.onnx.clean.cones.LEAST_BUDGET", 1000)
    links = [
        f"e{k} = Concat<axis=0>({'c' if k == 0 else f'e{k - 1}'}, {'c' if k == 0 else f'e{k - 1}'})" for k in range(20)
    ]
    body = [*links, "r = ReduceSum(e19)", "y = Mul(x, r)"]
    source = ir.serde.deserialize_model(model("float[3] x", body, {"c": np.float32([1, 2])}))
    remove_dead_weight(source, CHECKER.infer)
    assert max(made) == 1024
