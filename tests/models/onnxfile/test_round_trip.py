"""What nothing was done to is written as it was read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from normfold.models.onnxfile import from_proto, read, stage, to_proto

Change = Callable[[onnx.ModelProto], object]


def _training(m: onnx.ModelProto) -> None:
    info = m.training_info.add()
    info.initialization.name = "start"
    info.algorithm.node.add(op_type="Sub", input=["w", "g"], output=["w2"])
    info.update_binding.add(key="w", value="w2")


def _metadata(m: onnx.ModelProto) -> None:
    for owner in (m, m.graph, m.graph.node[0], m.graph.input[0], m.graph.initializer[0]):
        owner.metadata_props.add(key="a key", value="a value\nof two lines")
    m.doc_string, m.graph.doc_string, m.graph.node[0].doc_string = "model", "graph", "node"
    m.graph.input[0].doc_string, m.graph.initializer[0].doc_string = "input", "weight"
    m.producer_name, m.producer_version, m.domain, m.model_version = "them", "1.2", "org.them", 7


def _functions(m: onnx.ModelProto) -> None:
    node = helper.make_node("LeakyRelu", ["a"], ["b"])
    node.attribute.append(onnx.AttributeProto(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT))
    opsets = [helper.make_opsetid("", 17)]
    m.functions.append(helper.make_function("local", "F", ["a"], ["b"], [node], opsets, ["slope"], doc_string="doc"))
    m.functions[0].metadata_props.add(key="k", value="v")
    m.opset_import.append(helper.make_opsetid("local", 1))
    m.graph.node.append(helper.make_node("F", ["h"], ["f"], domain="local", slope=0.5))


def _unknown(m: onnx.ModelProto) -> None:
    m.opset_import.append(helper.make_opsetid("org.unknown", 12))
    m.graph.node.append(helper.make_node("Op", ["x"], ["u"], "op", domain="org.unknown", mode="a", sizes=[1, 2]))
    m.graph.node.append(helper.make_node("Op", ["x"], ["v"], domain="org.unknown", overload="second"))


def _annotation(m: onnx.ModelProto) -> None:
    annotation = m.graph.quantization_annotation.add(tensor_name="w")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="s")


def _map(m: onnx.ModelProto) -> None:
    """As scikit-learn's classifiers have it."""
    kind = onnx.TypeProto()
    kind.sequence_type.elem_type.map_type.key_type = TensorProto.INT64
    kind.sequence_type.elem_type.map_type.value_type.tensor_type.elem_type = TensorProto.FLOAT
    m.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    m.graph.node.append(helper.make_node("ZipMap", ["h"], ["z"], domain="ai.onnx.ml", classlabels_int64s=[*range(32)]))
    m.graph.output.append(onnx.ValueInfoProto(name="z", type=kind))


def _map_input(m: onnx.ModelProto) -> None:
    value = m.graph.input.add(name="d")
    value.type.map_type.key_type = TensorProto.STRING
    value.type.map_type.value_type.tensor_type.elem_type = TensorProto.FLOAT


CHANGES: dict[str, Change] = {
    "plain": lambda m: None,
    "training information": _training,
    "metadata": _metadata,
    "functions": _functions,
    "unknown domains": _unknown,
    "quantisation annotations": _annotation,
    "an output of maps": _map,
    "an input that is a map": _map_input,
}


def _parts(proto: onnx.ModelProto) -> dict[str, bytes | list[bytes]]:
    """The model's parts in bytes; what onnx_ir adds, shapes of initializers beside the initializers, is left out."""
    for node in (*proto.graph.node, *(node for function in proto.functions for node in function.node)):
        node.domain = node.domain or ""
        if not node.domain:
            node.ClearField("domain")
    del proto.graph.value_info[:]
    return {
        field.name: [value.SerializeToString(deterministic=True) for value in values]
        if field.is_repeated and field.message_type
        else values.SerializeToString(deterministic=True)
        if field.message_type
        else values
        for field, values in proto.ListFields()
    }


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("cloned", [False, True])
def test_every_part_comes_back(name: str, cloned: bool, tmp_path: Path, model: onnx.ModelProto) -> None:
    model.ir_version = 10
    CHANGES[name](model)
    before = model.SerializeToString()
    (tmp_path / "m.onnx").write_bytes(before)
    file = read(tmp_path / "m.onnx")
    with stage(file.model.clone() if cloned else file.model, tmp_path / "out.onnx", source=file) as staged:
        staged.commit()
    assert _parts(onnx.load(tmp_path / "out.onnx")) == _parts(onnx.load(tmp_path / "m.onnx"))
    returned = to_proto(from_proto(model))
    assert model.SerializeToString() == before
    assert _parts(returned) == _parts(model)


def test_negative_sizes_are_free(tmp_path: Path, model: onnx.ModelProto) -> None:
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = -1
    model.graph.value_info.append(helper.make_tensor_value_info("h", TensorProto.FLOAT, [-1, -7]))
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    for result in (read(tmp_path / "m.onnx").model, from_proto(model)):
        assert [dim.value for dim in (result.graph.inputs[0].shape[0], result.graph.outputs[0].shape[0])] == [
            None,
            None,
        ]
        assert result.graph.inputs[0].shape[1] == 32
        (hidden,) = result.graph[0].outputs
        assert hidden.shape == ir.Shape([None, None])
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_value == -1


def test_types_of_initializers_are_not_stated_beside_them() -> None:
    """Not in subgraphs either: quantisers of other projects fail on it."""
    weight = helper.make_tensor("w", TensorProto.FLOAT, [2], [1.0, 2.0])
    info = helper.make_tensor_value_info("w", TensorProto.FLOAT, [2])
    other = helper.make_tensor_value_info("b", TensorProto.FLOAT, [2])
    outputs = [helper.make_tensor_value_info("z", TensorProto.FLOAT, [2])]
    nodes = [helper.make_node("Add", ["x", "w"], ["b"]), helper.make_node("Neg", ["b"], ["z"])]
    branch = helper.make_graph(nodes, "branch", [], outputs, [weight], value_info=[info, other])
    branches = {"then_branch": branch, "else_branch": branch}
    inputs = [
        helper.make_tensor_value_info("c", TensorProto.BOOL, []),
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [2]),
    ]
    graph = helper.make_graph([helper.make_node("If", ["c"], ["y"], **branches)], "g", inputs, outputs[:0])
    graph.output.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, [2]))
    graph.initializer.append(weight)
    graph.value_info.append(info)
    written = to_proto(from_proto(helper.make_model(graph)))
    inner = [attribute.g for attribute in written.graph.node[0].attribute]
    assert [value.name for value in written.graph.value_info] == []
    assert [[value.name for value in one.value_info] for one in inner] == [["b"], ["b"]]
