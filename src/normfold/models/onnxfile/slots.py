"""Every place of a model that holds a tensor: initializers and attributes, subgraphs and functions included."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import onnx_ir as ir


@dataclass(frozen=True, slots=True)
class Initializer:
    """The constant of a graph's initializer."""

    value: ir.Value

    @property
    def tensor(self) -> ir.TensorProtocol:
        """The tensor held; a slot is only made for a value that has one."""
        tensor = self.value.const_value
        if tensor is None:
            raise ValueError(f"initializer {self.value.name!r} has lost its constant")
        return tensor

    def put(self, tensor: ir.TensorProtocol) -> None:
        """Hold ``tensor`` instead."""
        self.value.const_value = tensor


@dataclass(frozen=True, slots=True)
class Attribute:
    """One tensor of a node's attribute: its only one (``index`` None) or one of a list."""

    node: ir.Node
    name: str
    index: int | None

    @property
    def tensor(self) -> ir.TensorProtocol:
        """The tensor held."""
        attribute = self.node.attributes[self.name]
        return attribute.as_tensor() if self.index is None else attribute.as_tensors()[self.index]

    def put(self, tensor: ir.TensorProtocol) -> None:
        """Hold ``tensor`` instead; the attribute keeps its place among the node's attributes."""
        old = self.node.attributes[self.name]
        held: object = tensor
        if self.index is not None:
            tensors = list(old.as_tensors())
            tensors[self.index] = tensor
            held = tensors
        self.node.attributes[self.name] = ir.Attr(old.name, old.type, held, doc_string=old.doc_string)


Slot = Initializer | Attribute


def slots(model: ir.Model) -> Iterator[Slot]:
    """Yield the slots of ``model`` in a fixed order: the graph's, then each function's."""
    yield from _in_graph(model.graph)
    for function in model.functions.values():
        yield from _in_graph(function.graph)


def _in_graph(graph: ir.Graph) -> Iterator[Slot]:
    for value in graph.initializers.values():
        if value.const_value is not None:
            yield Initializer(value)
    for node in graph:
        for attribute in node.attributes.values():
            if not attribute.is_ref():
                yield from _in_attribute(node, attribute)


def _in_attribute(node: ir.Node, attribute: ir.Attr) -> Iterator[Slot]:
    if attribute.type == ir.AttributeType.TENSOR:
        yield Attribute(node, attribute.name, None)
    elif attribute.type == ir.AttributeType.TENSORS:
        for index in range(len(attribute.as_tensors())):
            yield Attribute(node, attribute.name, index)
    elif attribute.type == ir.AttributeType.GRAPH:
        yield from _in_graph(attribute.as_graph())
    elif attribute.type == ir.AttributeType.GRAPHS:
        for graph in attribute.as_graphs():
            yield from _in_graph(graph)


def detached(tensor: ir.TensorProtocol) -> ir.LazyTensor:
    """The bytes of ``tensor``, read when they are needed, under a name of its own and in no other file."""
    return ir.LazyTensor(
        partial(_itself, tensor),
        dtype=tensor.dtype,
        shape=ir.Shape(tensor.shape.numpy(), frozen=True),
        name=tensor.name,
        doc_string=tensor.doc_string or None,
        metadata_props=dict(tensor.metadata_props) or None,
    )


def _itself(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    return tensor
