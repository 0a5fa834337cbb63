"""Each refusal has a model that breaks exactly that one thing."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from models.onnxfile.samples import externalise
from normfold.errors import ModelFileError
from normfold.models.onnxfile import check_structure, from_proto, read

Break = Callable[[onnx.ModelProto], object]


def _swap(m: onnx.ModelProto) -> None:
    """The first three nodes in reverse."""
    keys = iter((2, 1, 0, *range(3, len(m.graph.node))))
    m.graph.node.sort(key=lambda _node: next(keys))


def _function(m: onnx.ModelProto, name: str, *calls: str) -> None:
    nodes = [helper.make_node("Relu", ["a"], ["t0"])]
    nodes += [helper.make_node(call, [f"t{i}"], [f"t{i + 1}"], domain="d") for i, call in enumerate(calls)]
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("d", 1)]
    m.functions.append(helper.make_function("d", name, ["a"], [f"t{len(calls)}"], nodes, opsets))


def _branch(m: onnx.ModelProto, nodes: list[onnx.NodeProto], output: str = "o") -> None:
    """Append an If whose branches hold ``nodes``."""
    body = helper.make_graph(nodes, "body", [], [helper.make_tensor_value_info(output, 1, None)])
    m.graph.input.append(helper.make_tensor_value_info("c", TensorProto.BOOL, []))
    m.graph.node.append(helper.make_node("If", ["c"], ["z"], name="if", then_branch=body, else_branch=body))


def _nest(m: onnx.ModelProto, depth: int) -> None:
    m.graph.input.append(helper.make_tensor_value_info("c", TensorProto.BOOL, []))
    graph = m.graph
    for _ in range(depth):
        node = graph.node.add(op_type="If", input=["c"], output=["o"])
        graph = node.attribute.add(name="then_branch", type=onnx.AttributeProto.GRAPH).g
        graph.output.add(name="o")
    graph.node.add(op_type="Identity", input=["x"], output=["o"])


def _sparse(indices: list[int], dims: list[int], name: str = "s") -> onnx.SparseTensorProto:
    values = numpy_helper.from_array(np.arange(1, len(indices) + 1, dtype=np.float32), name)
    return helper.make_sparse_tensor(values, numpy_helper.from_array(np.array(indices, dtype=np.int64)), dims)


def _cycle(m: onnx.ModelProto) -> None:
    m.graph.node[0].input[0] = "y"


STRUCTURE: dict[str, tuple[Break, str]] = {
    "no graph": (lambda m: m.ClearField("graph"), "has no graph"),
    "no IR version": (lambda m: m.ClearField("ir_version"), "IR version"),
    "negative IR version": (lambda m: setattr(m, "ir_version", -1), "IR version"),
    "no opset": (lambda m: m.ClearField("opset_import"), "imports no operator set"),
    "opset 0": (lambda m: setattr(m.opset_import[0], "version", 0), "version 0"),
    "opset twice": (lambda m: m.opset_import.append(helper.make_opsetid("ai.onnx", 18)), "defined twice"),
    "undefined input": (lambda m: m.graph.node[0].input.__setitem__(0, "nope"), "'matmul'.*nothing defines"),
    "cycle": (_cycle, "'matmul'.*cycle"),
    "defined twice": (lambda m: m.graph.node[1].output.__setitem__(0, "h"), "'const'.*already defined"),
    "redefines an input": (lambda m: m.graph.node[0].output.__setitem__(0, "x"), "already defined"),
    "initializer twice": (lambda m: m.graph.initializer.append(m.graph.initializer[0]), "'w' is defined twice"),
    "nameless initializer": (lambda m: m.graph.initializer[0].ClearField("name"), "no name"),
    "input twice": (lambda m: m.graph.input.append(m.graph.input[0]), "'x' is defined twice"),
    "undefined output": (lambda m: setattr(m.graph.output[0], "name", "nope"), "Output 'nope'"),
    "no operation": (lambda m: m.graph.node[0].ClearField("op_type"), "names no operation"),
    "attribute twice": (lambda m: m.graph.node[1].attribute.append(m.graph.node[1].attribute[0]), "two attributes"),
    "attribute without type": (lambda m: m.graph.node[1].attribute[0].ClearField("type"), "has no type"),
    "function twice": (lambda m: (_function(m, "F"), _function(m, "F")), "same domain and name"),
    "nameless function": (lambda m: (_function(m, "F"), m.functions[0].ClearField("name")), "no name"),
    "function output": (lambda m: (_function(m, "F"), m.functions[0].output.__setitem__(0, "q")), "Output 'q'"),
    "function captures": (
        lambda m: (_function(m, "F"), m.functions[0].node[0].input.__setitem__(0, "x")),
        "nothing defines",
    ),
    "deep calls": (lambda m: [_function(m, f"F{i}", f"F{i + 1}") for i in range(40)] + [_function(m, "F40")], "deep"),
    "deep calls, leaf first": (
        lambda m: [_function(m, "F40"), *(_function(m, f"F{i}", f"F{i + 1}") for i in range(39, -1, -1))],
        "deep",
    ),
    "deep subgraphs": (lambda m: _nest(m, 40), "nested deeper"),
    "subgraph undefined": (lambda m: _branch(m, [helper.make_node("Relu", ["q"], ["o"])]), "'q', which nothing"),
    "cycle through a subgraph": (
        lambda m: (
            _branch(m, [helper.make_node("Relu", ["late"], ["o"])]),
            m.graph.node.append(helper.make_node("Relu", ["z"], ["late"])),
        ),
        "cycle through 'late'",
    ),
    "unsorted, and a subgraph redefines an outer name": (
        lambda m: (
            _branch(m, [helper.make_node("Relu", ["x"], ["h"]), helper.make_node("Relu", ["h"], ["o"])]),
            _swap(m),
        ),
        "'add'.*before node 'matmul'",
    ),
    "subgraph uses a name before it redefines it": (
        lambda m: _branch(m, [helper.make_node("Relu", ["h"], ["o"]), helper.make_node("Relu", ["x"], ["h"])]),
        "before",
    ),
    "subgraph hands out an outer value": (lambda m: _branch(m, [], "h"), "Output 'h'"),
    "sparse attribute elsewhere": (
        lambda m: m.graph.node[0].attribute.append(
            onnx.AttributeProto(name="q", type=onnx.AttributeProto.SPARSE_TENSOR, sparse_tensor=_sparse([0], [4]))
        ),
        "sparse tensor as attribute",
    ),
}


@pytest.mark.parametrize("name", STRUCTURE)
def test_bad_structure(model: onnx.ModelProto, name: str) -> None:
    check_structure(model)
    break_it, message = STRUCTURE[name]
    break_it(model)
    with pytest.raises(ModelFileError, match=f"(?s){message}") as caught:
        check_structure(model)
    assert caught.value.code == "bad-structure"
    assert caught.value.hint


def _odd_constant(m: onnx.ModelProto, **values: object) -> None:
    m.graph.node.append(helper.make_node("Constant", [], ["k"], name="odd", **values))


def _node(
    m: onnx.ModelProto, op: str, inputs: list[str], outputs: list[str] | None = None, **attributes: object
) -> None:
    m.graph.node.append(helper.make_node(op, inputs, outputs or ["z"], name="odd", **attributes))


MISFITS: dict[str, tuple[Break, str]] = {
    "too few inputs": (lambda m: _node(m, "Conv", ["x"]), "1 inputs.*at least 2"),
    "too many inputs": (lambda m: _node(m, "Relu", ["x", "x"]), "2 inputs; the operator takes 1"),
    "a blank input": (lambda m: _node(m, "Conv", ["x", ""]), "leaves out input 1"),
    "too many outputs": (lambda m: _node(m, "Relu", ["x"], ["z", "zz"]), "2 outputs"),
    "an attribute of another type": (lambda m: _node(m, "Softmax", ["x"], axis=[1]), "'axis'.*wrong type"),
    "an attribute of an operator without a schema": (
        lambda m: _node(m, "MatMulNBits", ["x"], domain="com.microsoft", block_size=[16]),
        "'block_size'.*wrong type",
    ),
    "a word that is no text": (lambda m: _node(m, "Pad", ["x", "w"], mode=b"\xff\xfe"), "'mode'.*not UTF-8"),
    "a required attribute": (lambda m: _node(m, "Cast", ["x"]), "no attribute 'to'"),
    "a constant of two values": (lambda m: _odd_constant(m, value_int=1, value_float=1.0), "one value"),
    "a constant of none": (_odd_constant, "one value"),
    "a constant of another": (lambda m: _odd_constant(m, values=1), "one value"),
    "an operator of a later opset": (lambda m: _node(m, "RMSNormalization", ["x"]), "1 inputs"),
    "an attribute of a later opset": (
        lambda m: (
            setattr(m.opset_import[0], "version", 9),
            _node(m, "BatchNormalization", list("xwwww"), training_mode=[1]),
        ),
        "'training_mode'.*wrong type",
    ),
    "in a function": (
        lambda m: (_function(m, "F"), m.functions[0].node.append(helper.make_node("Concat", ["a"], ["z"], name="odd"))),
        "no attribute 'axis'",
    ),
    "in a subgraph": (lambda m: _branch(m, [helper.make_node("Add", ["x"], ["o"], name="odd")]), "1 inputs"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_nodes_that_do_not_fit_their_schema(model: onnx.ModelProto, name: str) -> None:
    break_it, message = MISFITS[name]
    break_it(model)
    with pytest.raises(ModelFileError, match=f"(?s){message}") as caught:
        check_structure(model)
    assert caught.value.code == "invalid-model"
    assert "odd" in str(caught.value)


def test_nodes_without_a_schema_may_look_like_anything(model: onnx.ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("d", 1))
    _function(model, "Relu")
    _node(model, "Relu", ["x", "", "x"], ["z"], domain="other", axis="a")
    _node(model, "NoSuchThing", ["x"], ["z1"])
    _node(model, "Upsample", ["x"], ["z2"])
    _node(model, "Relu", ["x"], ["z3"], unknown=1)
    check_structure(model)


def test_an_attribute_of_a_function_outside_one(model: onnx.ModelProto) -> None:
    _node(model, "Softmax", ["x"])
    model.graph.node[-1].attribute.add(name="axis", type=onnx.AttributeProto.INT, ref_attr_name="a")
    with pytest.raises(ModelFileError, match="refers to one of a function") as caught:
        check_structure(model)
    assert caught.value.code == "bad-structure"


def _operators(model: onnx_ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def test_nodes_out_of_order_are_sorted(model: onnx.ModelProto, tmp_path: Path) -> None:
    _branch(model, [helper.make_node("Relu", ["late"], ["o"])])
    model.graph.node.append(helper.make_node("Neg", ["x"], ["late"]))
    _swap(model)
    before = model.SerializeToString()
    check_structure(model)
    assert _operators(from_proto(model)) == ["Constant", "MatMul", "Add", "Neg", "If"]
    assert model.SerializeToString() == before
    (tmp_path / "m.onnx").write_bytes(before)
    assert _operators(read(tmp_path / "m.onnx").model) == ["Constant", "MatMul", "Add", "Neg", "If"]


def test_nodes_of_subgraphs_and_functions_are_sorted(model: onnx.ModelProto) -> None:
    _branch(model, [helper.make_node("Abs", ["n"], ["o"]), helper.make_node("Neg", ["h"], ["n"])])
    _function(model, "F", "Exp", "Log")
    keys = iter((2, 1, 0))
    model.functions[0].node.sort(key=lambda _node: next(keys))
    result = from_proto(model)
    branch = result.graph[-1].attributes["then_branch"].as_graph()
    assert [node.op_type for node in branch] == ["Neg", "Abs"]
    (function,) = result.functions.values()
    assert [node.op_type for node in function] == ["Relu", "Exp", "Log"]


def test_recursive_functions(model: onnx.ModelProto) -> None:
    _function(model, "A", "B")
    _function(model, "B")
    check_structure(model)
    model.functions[1].node[0].op_type, model.functions[1].node[0].domain = "A", "d"
    with pytest.raises(ModelFileError, match="calls itself") as caught:
        check_structure(model)
    assert caught.value.code == "recursive-function"


def test_recursion_through_a_subgraph(model: onnx.ModelProto) -> None:
    _function(model, "A")
    body = helper.make_graph(
        [helper.make_node("A", ["a"], ["o"], domain="d")], "body", [], [helper.make_tensor_value_info("o", 1, None)]
    )
    model.functions[0].node.append(helper.make_node("If", ["t0"], ["z"], then_branch=body, else_branch=body))
    with pytest.raises(ModelFileError) as caught:
        check_structure(model)
    assert caught.value.code == "recursive-function"


def test_functions_that_expand_without_bound(model: onnx.ModelProto) -> None:
    for i in range(12):
        _function(model, f"F{i}", *[f"F{i + 1}"] * 10)
    _function(model, "F12")
    with pytest.raises(ModelFileError) as caught:
        check_structure(model)
    assert caught.value.code == "too-large"


@pytest.mark.parametrize("what", ["ir", "opset", "ml"])
def test_newer_than_the_installed_onnx(model: onnx.ModelProto, what: str) -> None:
    if what == "ir":
        model.ir_version = onnx.IR_VERSION + 1
    elif what == "opset":
        model.opset_import[0].version = onnx.defs.onnx_opset_version() + 1
    else:
        model.opset_import.append(helper.make_opsetid("ai.onnx.ml", onnx.defs.onnx_ml_opset_version() + 1))
    with pytest.raises(ModelFileError) as caught:
        check_structure(model)
    assert caught.value.code == "unsupported-version"


def _constant(m: onnx.ModelProto) -> onnx.TensorProto:
    return m.graph.node[1].attribute[0].t


TENSORS: dict[str, tuple[Callable[[onnx.TensorProto], object], str]] = {
    "negative": (lambda t: t.dims.__setitem__(0, -1), "negative"),
    "overflow": (lambda t: t.dims.extend([2**40, 2**40]), "overflow"),
    "overflow behind zero": (lambda t: (t.dims.extend([0, 2**40, 2**40]), t.ClearField("raw_data")), "overflow"),
    "rank": (lambda t: t.dims.extend([1] * 40), "dimensions; at most"),
    "too short": (lambda t: setattr(t, "raw_data", t.raw_data[:-1]), "bytes but its dimensions"),
    "too long": (lambda t: setattr(t, "raw_data", t.raw_data + b"\0"), "bytes but its dimensions"),
    "no data": (lambda t: t.ClearField("raw_data"), "holds 0 values"),
    "unknown type": (lambda t: setattr(t, "data_type", 99), "unknown element type 99"),
    "undefined type": (lambda t: setattr(t, "data_type", 0), "unknown element type 0"),
    "wrong width": (lambda t: setattr(t, "data_type", TensorProto.DOUBLE), "bytes but its dimensions"),
    "raw strings": (lambda t: setattr(t, "data_type", TensorProto.STRING), "strings as raw bytes"),
    "data twice": (lambda t: t.float_data.append(1.0), "twice"),
    "segment": (lambda t: setattr(t.segment, "begin", 0), "segments"),
    "wrong field": (lambda t: (t.ClearField("raw_data"), t.double_data.append(1.0)), "double_data"),
    "too few values": (lambda t: (t.ClearField("raw_data"), t.float_data.extend([1.0, 2.0])), "holds 2 values"),
}


@pytest.mark.parametrize("pick", [lambda m: m.graph.initializer[0], _constant], ids=["initializer", "attribute"])
@pytest.mark.parametrize("name", TENSORS)
def test_bad_tensor(model: onnx.ModelProto, name: str, pick: Callable[[onnx.ModelProto], onnx.TensorProto]) -> None:
    break_it, message = TENSORS[name]
    break_it(pick(model))
    with pytest.raises(ModelFileError, match=message) as caught:
        check_structure(model)
    assert caught.value.code == "bad-tensor"
    assert "'w'" in caught.value.message or "'const'" in caught.value.message


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("size", [0, 1, 3, 4, 7])
@pytest.mark.parametrize(
    ("kind", "raw_bytes", "entries", "field"),
    [
        (TensorProto.FLOAT, lambda n: 4 * n, lambda n: n, "float_data"),
        (TensorProto.COMPLEX64, lambda n: 8 * n, lambda n: 2 * n, "float_data"),
        (TensorProto.COMPLEX128, lambda n: 16 * n, lambda n: 2 * n, "double_data"),
        (TensorProto.BFLOAT16, lambda n: 2 * n, lambda n: n, "int32_data"),
        (TensorProto.BOOL, lambda n: n, lambda n: n, "int32_data"),
        (TensorProto.UINT32, lambda n: 4 * n, lambda n: n, "uint64_data"),
        (TensorProto.INT4, lambda n: (n + 1) // 2, lambda n: (n + 1) // 2, "int32_data"),
        (TensorProto.UINT2, lambda n: (n + 3) // 4, lambda n: (n + 3) // 4, "int32_data"),
        (TensorProto.FLOAT6E2M3, lambda n: (6 * n + 7) // 8, lambda n: n, "int32_data"),
    ],
)
def test_every_storage_form(
    kind: int, raw_bytes: Callable[[int], int], entries: Callable[[int], int], field: str, size: int, raw: bool
) -> None:
    def build(extra: int) -> onnx.ModelProto:
        tensor = TensorProto(name="t", data_type=kind, dims=[size])
        if raw:
            tensor.raw_data = bytes(raw_bytes(size) + extra)
        else:
            getattr(tensor, field).extend([0] * (entries(size) + extra))
        graph = helper.make_graph([], "g", [], [helper.make_tensor_value_info("t", kind, [size])], [tensor])
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)

    loaded = from_proto(build(0)).graph.initializers["t"].const_value
    assert loaded is not None
    assert loaded.numpy().shape == (size,)
    with pytest.raises(ModelFileError):
        check_structure(build(1))


def test_padding_of_six_bits_is_zero(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(
        TensorProto(name="t", data_type=TensorProto.FLOAT6E2M3, dims=[1], raw_data=b"\xff"),
    )
    with pytest.raises(ModelFileError) as caught:
        check_structure(model)
    assert caught.value.code == "bad-tensor"


def test_strings_are_counted(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(helper.make_tensor("s", TensorProto.STRING, [2], [b"a", b"b"]))
    check_structure(model)
    model.graph.initializer[1].dims[0] = 3
    with pytest.raises(ModelFileError):
        check_structure(model)


def test_an_outer_value_may_be_captured_and_its_name_reused(model: onnx.ModelProto) -> None:
    _branch(model, [helper.make_node("Relu", ["x"], ["h"]), helper.make_node("Relu", ["h"], ["o"])])
    check_structure(model)


def test_an_initializer_may_be_an_inputs_default(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("w", 1, [32, 32]))
    check_structure(model)


def test_sparse_tensors_become_dense(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.append(_sparse([1, 5], [2, 3]))
    node = helper.make_node("Constant", [], ["k"], name="sparse", sparse_value=_sparse([0, 3], [4]))
    model.graph.node.append(node)
    before = model.SerializeToString()
    ir_model = from_proto(model)
    dense = ir_model.graph.initializers["s"].const_value
    assert dense is not None
    assert np.array_equal(dense.numpy(), [[0, 1, 0], [0, 0, 2]])
    constant = next(node for node in ir_model.graph if node.name == "sparse")
    assert np.array_equal(constant.attributes["value"].as_tensor().numpy(), [1, 0, 0, 2])
    assert model.SerializeToString() == before


@pytest.mark.parametrize(
    ("sparse", "code"),
    [
        (_sparse([6], [2, 3]), "bad-tensor"),
        (_sparse([-1], [2, 3]), "bad-tensor"),
        (_sparse([0], [1 << 30]), "too-large"),
        (_sparse([0], [-4]), "bad-tensor"),
    ],
)
def test_bad_sparse_tensors(model: onnx.ModelProto, sparse: onnx.SparseTensorProto, code: str) -> None:
    model.graph.sparse_initializer.append(sparse)
    with pytest.raises(ModelFileError) as caught:
        from_proto(model)
    assert caught.value.code == code


def test_sparse_indices_must_fit_the_values(model: onnx.ModelProto) -> None:
    sparse = _sparse([0, 1], [4])
    sparse.indices.CopyFrom(numpy_helper.from_array(np.array([0], dtype=np.int64)))
    model.graph.sparse_initializer.append(sparse)
    with pytest.raises(ModelFileError, match="do not fit together"):
        check_structure(model)


def test_from_proto_never_writes_to_the_proto(model: onnx.ModelProto) -> None:
    before = model.SerializeToString()
    ir_model = from_proto(model)
    value = ir_model.graph.initializers["w"]
    ir_model.graph.initializers.pop("w")
    value.name = "renamed"
    ir_model.graph.initializers.add(value)
    assert onnx_ir.to_proto(ir_model).graph.initializer[0].name == "renamed"
    assert model.SerializeToString() == before


def test_from_proto_refuses_external_data(model: onnx.ModelProto) -> None:
    externalise(model.graph.initializer[0], "w.data")
    with pytest.raises(ModelFileError) as caught:
        from_proto(model)
    assert caught.value.code == "missing-external-data"


@pytest.mark.parametrize("name", ["matmul", "MatMul", "h", "w", "alpha"])
def test_names_that_are_not_text(model: onnx.ModelProto, name: str) -> None:
    model.graph.node[0].attribute.append(helper.make_attribute("alpha", 1.0))
    length = bytes([len(name)])
    data = model.SerializeToString().replace(length + name.encode(), length + b"\xff" * len(name))
    with pytest.raises(ModelFileError) as caught:
        from_proto(onnx.ModelProto.FromString(data))
    assert caught.value.code == "not-onnx"


def test_the_check_of_a_long_model_is_linear_in_its_nodes() -> None:
    """Five times the nodes take five times the time, not twenty-five times."""

    def chain(length: int) -> onnx.ModelProto:
        same = {"kernel_shape": [1, 1], "pads": [0, 0, 0, 0]}
        graph = helper.make_graph(
            [helper.make_node("Conv", [f"t{i}", "w"], [f"t{i + 1}"], name=f"n{i}", **same) for i in range(length)],
            "g",
            [helper.make_tensor_value_info("t0", 1, None)],
            [helper.make_tensor_value_info(f"t{length}", 1, None)],
            [numpy_helper.from_array(np.ones((1, 1, 1, 1), np.float32), "w")],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)

    def seconds(proto: onnx.ModelProto) -> float:
        start = time.process_time()
        check_structure(proto)
        return time.process_time() - start

    short, long = chain(1000), chain(5000)
    pairs = [(seconds(short), seconds(long)) for _ in range(5)]
    assert min(last for _, last in pairs) < 12 * min(first for first, _ in pairs)


def test_somebody_elses_operator_may_look_like_anything(model: onnx.ModelProto) -> None:
    _node(model, "MatMulNBits", ["x"], domain="elsewhere", block_size=[16])
    model.opset_import.append(helper.make_opsetid("elsewhere", 1))
    check_structure(model)


def test_a_constant_holds_any_bytes(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Constant", [], ["k"], value_string=b"\xff"))
    check_structure(model)
