"""Models encoded in pieces: the bytes are those that protobuf makes of the whole."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from google.protobuf.message import EncodeError
from onnx import helper, numpy_helper

from normfold.models.onnxfile import encoding
from normfold.models.onnxfile.encoding import pieces


def complete(sizes: tuple[int, ...]) -> onnx.ModelProto:
    """A model with every field around those that are cut, and a body with an initializer of its own."""
    tensors = [numpy_helper.from_array(np.arange(size, dtype=np.float32), f"w{size}") for size in sizes]
    body = helper.make_graph(
        [helper.make_node("Add", ["x", "b"], ["r"])],
        "body",
        [],
        [helper.make_tensor_value_info("r", 1, None)],
        [numpy_helper.from_array(np.ones(3, np.float32), "b")],
    )
    x, y = (helper.make_tensor_value_info(name, 1, [3]) for name in "xy")
    condition = helper.make_tensor_value_info("c", 9, [])
    graph = helper.make_graph(
        [helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=body)], "g", [x, condition], [y], tensors
    )
    graph.doc_string = "of the graph"
    graph.value_info.append(helper.make_tensor_value_info("z", 1, [3]))
    graph.quantization_annotation.add().tensor_name = "x"
    model = helper.make_model(graph, producer_name="test", doc_string="of the model", ir_version=9)
    helper.set_model_props(model, {"b": "2" * 300, "a": "1"})
    model.functions.append(
        helper.make_function("own", "f", ["x"], ["y"], [helper.make_node("Relu", ["x"], ["y"])], model.opset_import)
    )
    model.training_info.add().algorithm.name = "none"
    return model


def bare(_: tuple[int, ...]) -> onnx.ModelProto:
    return onnx.ModelProto()


@pytest.mark.parametrize("make", [complete, bare])
@pytest.mark.parametrize("sizes", [(), (0,), (1, 31, 32, 5000), (70_000, 3)])
def test_pieces_are_the_bytes_of_the_whole(
    make: Callable[[tuple[int, ...]], onnx.ModelProto], sizes: tuple[int, ...]
) -> None:
    model = make(sizes)
    model.graph.name = "named"
    whole = model.SerializeToString(deterministic=True)
    assert b"".join(pieces(model)) == whole


def test_no_piece_holds_two_initializers() -> None:
    model = complete((10_000, 20_000))
    lengths = [len(piece) for piece in pieces(model)]
    assert max(lengths) < 20_000 * 4 + 100


def test_more_than_one_file_holds_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    size = len(complete((5000,)).SerializeToString())
    monkeypatch.setattr(encoding, "MAX_PROTO_BYTES", size)
    assert len(b"".join(pieces(complete((5000,))))) == size
    monkeypatch.setattr(encoding, "MAX_PROTO_BYTES", size - 1)
    with pytest.raises(EncodeError, match=str(size - 1)):
        pieces(complete((5000,)))
