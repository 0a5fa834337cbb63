"""The process in which onnx's own C++, its checker and its shape inference, meets models, over the protocol of workers.

A small damaged file can crash it. `VERBS` lists what can be asked. Runs as
``python -m normfold.runtime.workers.checking``.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import onnx
from onnx import checker, defs, shape_inference

from normfold.runtime.memory import limit_this_process
from normfold.runtime.workers.protocol import RefusedError, Reply, Request, own_stdout, sentence, serve

FAILURES: Final = (checker.ValidationError, shape_inference.InferenceError, ValueError, RuntimeError)
"""What onnx raises for a model that it does not like."""
UNKNOWN: Final = "unknown to onnx"
"""A domain."""
Sizes = list[int | str | None]


class CheckingWorker:
    """Holds nothing between requests."""

    def infer(self, request: Request) -> Reply:
        """Types and dimensions of the values of ``model`` by name, graph by graph, as `_inferred` has them.

        ``careful`` leaves out nodes that read a value whose type is not known: what crashes is reading that.
        """
        limit_this_process(request["memory_limit"])
        model = onnx.load_model_from_string(base64.b64decode(request["model"]))
        if request["careful"]:
            _take_out(model.graph, set())
            model.opset_import.add(domain=UNKNOWN, version=1)
        found = _inferred(model, follow=request["follow"])
        return {"graphs": [_listed(graph) for graph in _graphs(found.graph)]}

    def check(self, request: Request) -> Reply:
        """Why the checker or strict shape inference rejects the file ``model``; empty where neither does."""
        limit_this_process(request["memory_limit"])
        try:
            checker.check_model(request["model"], full_check=True)
        except FAILURES as error:
            return {"problem": " ".join(str(error).split())}
        return {"problem": ""}


def _inferred(model: onnx.ModelProto, *, follow: bool) -> onnx.ModelProto:
    """``model`` with what inference finds; what it states itself does not count where it contradicts that.

    Inference goes on from what is stated, right or wrong; only in strict mode it says that the two differ. Then it
    starts from the inputs alone, and from what comes out of operators that it does not know; whatever is stated and
    is no contradiction to what it finds there counts after all.
    """
    try:
        return shape_inference.infer_shapes(model, strict_mode=True, data_prop=follow)
    except FAILURES:
        pass
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    for graph in _graphs(plain.graph):
        _forget(graph)
    try:
        found = shape_inference.infer_shapes(plain, data_prop=follow)
        for mine, theirs in zip(_graphs(model.graph), _graphs(found.graph), strict=True):
            _correct(mine, {value.name: value for value in _stating(theirs)})
        return shape_inference.infer_shapes(model, data_prop=follow)
    except FAILURES as error:
        raise RefusedError("invalid", sentence(error)) from error


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """``graph`` and those of its nodes, each before those of its own nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _graphs(attribute.g)
            elif attribute.type == onnx.AttributeProto.GRAPHS:
                for body in attribute.graphs:
                    yield from _graphs(body)


def _stating(graph: onnx.GraphProto) -> Iterable[onnx.ValueInfoProto]:
    return (*graph.input, *graph.value_info, *graph.output)


def _listed(graph: onnx.GraphProto) -> dict[str, tuple[int, Sizes | None]]:
    tensors = (value for value in _stating(graph) if value.type.HasField("tensor_type"))
    return {value.name: (value.type.tensor_type.elem_type, _sizes(value)) for value in tensors}


def _sizes(value: onnx.ValueInfoProto) -> Sizes | None:
    tensor = value.type.tensor_type
    return [_size(dim) for dim in tensor.shape.dim] if tensor.HasField("shape") else None


def _size(dim: onnx.TensorShapeProto.Dimension) -> int | str | None:
    if dim.HasField("dim_value"):
        return dim.dim_value if dim.dim_value >= 0 else None
    return dim.dim_param or None


def _forget(graph: onnx.GraphProto) -> None:
    """Take away what ``graph`` states of values of which inference may know."""
    made = {name for node in graph.node if _is_inferred(node) for name in node.output}
    for value in (*graph.value_info, *graph.output):
        if value.name in made and value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")


def _is_inferred(node: onnx.NodeProto) -> bool:
    domain = "" if node.domain == "ai.onnx" else node.domain
    if not defs.has(node.op_type, domain):
        return False
    schema: Any = defs.get_schema(node.op_type, domain)
    return bool(schema.has_type_and_shape_inference_function or schema.has_function)


def _take_out(graph: onnx.GraphProto, typed: set[str]) -> None:
    """Make every node that reads what is not ``typed``, nor states its own type, one of an operator nobody knows."""
    typed = typed | {tensor.name for tensor in graph.initializer} | {""}
    typed |= {value.name for value in _stating(graph) if value.type.tensor_type.elem_type}
    for node in graph.node:
        if typed.issuperset(node.input) and _is_inferred(node):
            typed.update(node.output)
        else:
            node.domain = UNKNOWN
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                _take_out(body, typed)


def _correct(graph: onnx.GraphProto, found: dict[str, onnx.ValueInfoProto]) -> None:
    """Let ``graph`` state what was ``found`` wherever that contradicts what it states now."""
    for value in (*graph.value_info, *graph.output):
        true = found.get(value.name)
        if true is not None and _contradicts(_sizes(value), _sizes(true)):
            value.CopyFrom(true)


def _contradicts(stated: Sizes | None, found: Sizes | None) -> bool:
    if stated is None or found is None:
        return False
    pairs = zip(stated, found, strict=False)
    return len(stated) != len(found) or any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in pairs)


VERBS: Final[dict[str, Callable[[CheckingWorker, Request], Reply]]] = {
    "infer": CheckingWorker.infer,
    "check": CheckingWorker.check,
}
"""What can be asked."""


def main() -> None:
    """Serve until standard input ends."""
    serve(CheckingWorker(), VERBS, own_stdout())


if __name__ == "__main__":
    main()
