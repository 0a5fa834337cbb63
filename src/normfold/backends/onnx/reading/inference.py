"""What onnx's shape inference is given of a model, and what it says of the model's values.

Inference is C++ that a damaged model can crash, so this room does not run it: whoever makes an `OnnxGraph` hands in an
`Inference` that does. Weights stay behind: their dimensions are enough.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Final, Protocol

import onnx_ir as ir

from normfold.backends.onnx.reading.contributed import stand_in
from normfold.backends.onnx.reading.solved import solve, substituted
from normfold.core.algebra.moves import Dim

Sizes = Mapping[ir.Value, ir.TensorProtocol]
Found = Sequence[Mapping[str, tuple[int, Sequence[Dim] | None]]]
"""For each graph, the type and the dimensions of values by name."""

SMALL: Final = 1000
"""Bytes up to which a constant is handed over: axes, shapes and sizes."""
PARTS: Final = 1 << 12
"""Most sizes that are followed into one Concat, directly and through others."""
UNKNOWN: Final = "unk__"
"""How onnx begins the names of sizes."""
FOLLOWED: Final = frozenset(
    {"Add", "Cast", "Concat", "Gather", "Mul", "Shape", "Size", "Slice", "Squeeze", "Sub", "Unsqueeze"}
)
"""Operators through which onnx follows the elements of sizes."""

DTYPES: Final = {int(dtype): dtype for dtype in ir.DataType if dtype}
"""Types of elements by number."""


class Inference(Protocol):
    """Runs onnx's shape inference somewhere."""

    def __call__(self, model: bytes, *, follow: bool) -> Future[Found | None]:
        """What is found in a serialised model, graph by graph, the main one first, each before those of its nodes.

        ``follow`` lets it follow the elements of sizes. None where there is no answer.
        """
        ...


@dataclass(frozen=True, slots=True)
class Known:
    """What inference knows of a value."""

    dtype: ir.DataType | None
    dims: tuple[Dim, ...] | None


class Likeness:
    """A light copy of a model, which has its shapes inferred as often as more sizes are known."""

    def __init__(self, model: ir.Model) -> None:
        """``model`` stays as it is; changed later, it needs another likeness."""
        copy = model.clone()
        self._copy = copy
        self._graphs = list(zip(_graphs(model.graph), _graphs(copy.graph), strict=True))
        self._known: set[ir.Value] = set()
        for _, graph in self._graphs:
            # Before IR version 4 every initializer had to be listed as an input; runtimes treat them as constants.
            _lighten(graph, overridable=(model.ir_version or 4) >= 4)
            stand_in(graph, model.opset_imports.get("", model.opset_imports.get("ai.onnx", 1)))
        for node in copy.graph.all_nodes():
            _say_more(node)
        for function in copy.functions.values():
            _lighten(function.graph)

    def infer(self, sizes: Sizes, inference: Inference) -> Future[Found | None]:
        """Have its shapes inferred, with ``sizes`` for values that are known; those known before stay so."""
        more = {value: tensor for value, tensor in sizes.items() if value not in self._known}
        self._known |= more.keys()
        for mine, theirs in self._graphs if more else ():
            _spell_out(mine, theirs, more)
        data = ir.serde.serialize_model(self._copy).SerializeToString()
        return inference(data, follow=_can_follow(self._copy))


def known(model: ir.Model, found: Found | None, mark: str) -> dict[ir.Value, Known]:
    """What was ``found`` about the values of ``model``; ``mark`` ends the names that inference gave to sizes."""
    result: dict[ir.Value, Known] = {}
    for graph, named in zip(_graphs(model.graph), found or (), strict=False):
        for value in _values(graph):
            if value.name is not None and value.name in named:
                kind, dims = named[value.name]
                result[value] = Known(_dtype(kind), None if dims is None else tuple(_named(dim, mark) for dim in dims))
    numbers = solve(model.graph.all_nodes(), {value: one.dims for value, one in result.items()})
    if not numbers:
        return result
    return {
        value: one if one.dims is None else replace(one, dims=substituted(one.dims, numbers))
        for value, one in result.items()
    }


def _named(dim: Dim, mark: str) -> Dim:
    """``dim``, unlike any of another inference: each numbers the sizes that it does not know anew."""
    return dim + mark if isinstance(dim, str) and dim.startswith(UNKNOWN) else dim


def _dtype(number: int) -> ir.DataType | None:
    return DTYPES.get(number)


def _graphs(graph: ir.Graph) -> Iterator[ir.Graph]:
    """``graph`` and those of its nodes, each before those of its own nodes."""
    yield graph
    for node in graph:
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH and not attribute.is_ref():
                yield from _graphs(attribute.as_graph())
            elif attribute.type == ir.AttributeType.GRAPHS and not attribute.is_ref():
                for body in attribute.as_graphs():
                    yield from _graphs(body)


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs


def _lighten(graph: ir.Graph, *, overridable: bool = False) -> None:
    """Leave the elements of large constants out, and those of inputs, if callers can override them."""
    for value in graph.initializers.values():
        if value.const_value is not None:
            hidden = overridable and value.is_graph_input()
            value.const_value = (_elsewhere if hidden else _light)(value.const_value)
    for node in graph:
        for name, attribute in node.attributes.items():
            if attribute.type == ir.AttributeType.TENSOR and not attribute.is_ref():
                # Not by `as_tensor`, which looks for every method of a tensor each time.
                light = _light(attribute.value)
                if light is not attribute.value:
                    node.attributes[name] = ir.AttrTensor(name, light)


def _light(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """``tensor``, or where it is large one that says its type and shape only."""
    return tensor if tensor.nbytes <= SMALL else _elsewhere(tensor)


def _elsewhere(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """The type and the shape of ``tensor``, which claims to lie in another file."""
    return ir.ExternalTensor(
        "elsewhere", 0, tensor.nbytes, tensor.dtype, shape=ir.Shape(tensor.shape.numpy()), name=tensor.name or ""
    )


def _say_more(node: ir.Node) -> None:
    """State what is certain of an output and inference does not see."""
    if (node.domain, node.op_type) == ("ai.onnx.ml", "Scaler") and node.inputs and node.inputs[0] is not None:
        node.outputs[0].shape = node.outputs[0].shape or node.inputs[0].shape
        node.outputs[0].type = node.outputs[0].type or ir.TensorType(ir.DataType.FLOAT)
    if node.op_type in ("Conv", "ConvTranspose") and node.domain in ("", "ai.onnx") and node.outputs[0].shape is None:
        _size_convolution(node)


def _size_convolution(node: ir.Node) -> None:
    """Say that the output has as many axes as the weight has, and its channels, whatever the input is."""
    weight = node.inputs[1] if len(node.inputs) > 1 else None
    tensor = None if weight is None else _stored(weight)
    if weight is None or tensor is None or len(tensor.shape) < 3:
        return
    output, dims, groups = node.outputs[0], tensor.shape.numpy(), node.attributes.get_int("group", 1)
    if not 0 < groups <= dims[0]:
        return
    channels = dims[0] if node.op_type == "Conv" else dims[1] * groups
    output.shape = ir.Shape([None, channels, *[None] * (len(dims) - 2)])
    if output.type is None:
        output.type = None if weight.dtype is None else ir.TensorType(weight.dtype)


def _stored(weight: ir.Value) -> ir.TensorProtocol | None:
    """The tensor of a weight, or that which it is made of by what changes no more than its type."""
    source: ir.Value | None = weight
    while source is not None and source.const_value is None:
        maker = source.producer()
        if maker is not None and maker.op_type == "Constant":
            # Its type and shape are stated with it.
            return ir.convenience.get_const_tensor(source, propagate_shape_type=True)
        if maker is None or maker.op_type not in ("DequantizeLinear", "Cast", "Identity") or not maker.inputs:
            return None
        source = maker.inputs[0]
    return None if source is None else source.const_value


def _can_follow(model: ir.Model) -> bool:
    """Whether onnx may follow the elements of sizes: it does so through any Concat, and has no limit of its own."""
    joined: dict[ir.Value | None, int] = {}
    for node in model.graph.all_nodes():
        if node.op_type in FOLLOWED:
            counts = [joined.get(value, 1) for value in node.inputs]
            size = sum(counts) if node.op_type == "Concat" else max(counts, default=1)
            if size > PARTS:
                return False
            joined |= dict.fromkeys(node.outputs, size)
    return True


def _spell_out(graph: ir.Graph, copy: ir.Graph, sizes: Sizes) -> None:
    """Give the readers of computed ``sizes`` of ``graph`` the values themselves in its ``copy``."""
    names = {value.name: tensor for value, tensor in sizes.items() if value.graph is graph}
    likes = {value.name: value for value in _values(copy)} if names else {}
    for name, tensor in names.items():
        constant = ir.Value(
            name=f"{name} known", shape=ir.Shape(tensor.shape.numpy()), type=ir.TensorType(tensor.dtype)
        )
        constant.const_value = _light(tensor)
        copy.register_initializer(constant)
        likes[name].replace_all_uses_with(constant)
