"""Every text of a model that is not UTF-8, which protobuf hands out as bytes, is said to be damaged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
from google.protobuf.descriptor import FieldDescriptor
from onnx import helper

from fuzz.side_files import good
from normfold.errors import ModelFileError
from normfold.models.onnxfile import read

Steps = tuple[tuple[str, int | None], ...]
MARK = "QQQ mark QQQ"


def talkative() -> onnx.ModelProto:
    """A model with something in every field that holds text."""
    model = good()
    model.producer_name = model.producer_version = model.domain = model.doc_string = "m"
    body = [helper.make_node("Relu", ["a"], ["b"], name="inside")]
    function = helper.make_function("own", "F", ["a"], ["b"], body, [helper.make_opsetid("", 17)], attributes=["k"])
    function.value_info.append(helper.make_tensor_value_info("b", 1, ["n"]))
    model.functions.append(function)
    model.opset_import.add(domain="own", version=1)
    model.metadata_props.add(key="k", value="v")
    graph, node = model.graph, model.graph.node[0]
    value = graph.value_info.add()
    value.CopyFrom(helper.make_tensor_value_info("c", 1, ["n", None, None, None], shape_denotation=["d", "", "", ""]))
    sequence = graph.value_info.add()
    sequence.CopyFrom(helper.make_tensor_sequence_value_info("nothing", 1, ["n"]))
    for one in (model.graph, node, graph.initializer[0], value):
        one.doc_string = "d"
        one.metadata_props.add(key="k", value="v")
    value.type.denotation = "t"
    attribute = node.attribute.add(name="extra", type=onnx.AttributeProto.FLOAT, doc_string="d")
    attribute.f = 1.0
    graph.quantization_annotation.add(tensor_name="c").quant_parameter_tensor_names.add(key="SCALE", value="w")
    return model


def texts(message: Any, path: Steps = ()) -> Iterator[Steps]:
    for field, value in message.ListFields():
        for position, one in (
            enumerate(value)
            if not isinstance(value, str | bytes | int | float) and not hasattr(value, "ListFields")
            else [(None, value)]
        ):
            here = (*path, (field.name, position))
            if field.type == FieldDescriptor.TYPE_MESSAGE:
                yield from texts(one, here)
            elif field.type == FieldDescriptor.TYPE_STRING and one:
                yield here


PATHS = {"/".join(name if at is None else f"{name} {at}" for name, at in path): path for path in texts(talkative())}


def test_a_talkative_model_is_read(tmp_path: Path) -> None:
    onnx.save(talkative(), tmp_path / "m.onnx")
    assert read(tmp_path / "m.onnx").model.graph.num_nodes() == 2
    assert len(PATHS) > 50


@pytest.mark.parametrize("name", PATHS)
def test_a_text_that_is_not_utf_8(name: str, tmp_path: Path) -> None:
    model = talkative()
    owner: Any = model
    *way, (field, position) = PATHS[name]
    for step, at in way:
        owner = getattr(owner, step) if at is None else getattr(owner, step)[at]
    if position is None:
        setattr(owner, field, MARK)
    else:
        getattr(owner, field)[position] = MARK
    data = model.SerializeToString()
    assert data.count(MARK.encode()) == 1
    (tmp_path / "m.onnx").write_bytes(data.replace(MARK.encode(), b"QQQ \xd3\xff\xff\xff QQQ"))
    with pytest.raises(ModelFileError):
        read(tmp_path / "m.onnx")
