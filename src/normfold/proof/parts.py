"""The part of a model that a result changed, cut out of both at the values around it.

Where a model cannot be run as a whole (an input is text, an operator is one that nothing here knows, no inputs fit),
what was changed may still be comparable: values that both models compute alike become inputs, and outputs that both
compute alike are left out. Two parts that are equal on every input make models that are equal on every input.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import Final

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from normfold.backends.onnx import inline_norms, may_hold_norm
from normfold.backends.onnx.reading.shapes import Shapes
from normfold.models.source import RANDOM
from normfold.runtime import CHECKER

STANDARD: Final = ("", "ai.onnx")
NO_INPUT: Final = -1
Numbers = dict[ir.Value, int]


def changed_part(source: ir.Model, result: ir.Model) -> tuple[ir.Model, ir.Model] | None:
    """``source`` and ``result``, which are used up, cut to what differs; both without outputs where nothing does.

    None where the two cannot be cut: a value before the change has no known type or rank, or is no tensor.
    """
    inline_norms(source, may_hold_norm)
    there = result.opset_imports
    same_opsets = all(there.get(domain, version) == version for domain, version in source.opset_imports.items())
    if not same_opsets or len(source.graph.outputs) != len(result.graph.outputs):
        return None
    numbering = _Numbering()
    ours, theirs = numbering.of(source), numbering.of(result)
    pairs = zip(source.graph.outputs, result.graph.outputs, strict=True)
    changed = [k for k, (a, b) in enumerate(pairs) if ours[a] != theirs[b]]
    shared = set(ours.values()) & set(theirs.values())
    given = {numbering.input(value): value for value in source.graph.inputs}
    shapes = Shapes(source, dict, CHECKER.infer)
    made: dict[int, ir.Value] = {}
    for model, numbers in ((source, ours), (result, theirs)):
        boundary = _boundary([model.graph.outputs[k] for k in changed], numbers, shared)
        for value in boundary:
            number = numbers[value]
            made.setdefault(number, given.get(number) or next(v for v, n in ours.items() if n == number))
    inputs = {number: _as_input(value, shapes) for number, value in made.items()}
    if any(value is None for value in inputs.values()):
        return None
    for model, numbers in ((source, ours), (result, theirs)):
        _cut(model, numbers, {number: value for number, value in inputs.items() if value is not None}, changed)
    return source, result


class _Numbering:
    """Gives values of several models the same number where they are computed alike from the same inputs."""

    def __init__(self) -> None:
        self._known: dict[object, int] = {}

    def input(self, value: ir.Value) -> int:
        """The number of an input of the main graph."""
        return self._number(("input", value.name))

    def of(self, model: ir.Model) -> Numbers:
        """The numbers of the values of ``model``, but for those inside subgraphs."""
        functions = {key: _digest(ir.to_proto(one).SerializeToString()) for key, one in model.functions.items()}
        numbers: Numbers = {value: self.input(value) for value in model.graph.inputs}
        self._body(model.graph, numbers, functions, 0)
        return numbers

    def _number(self, key: object) -> int:
        return self._known.setdefault(key, len(self._known))

    def _body(
        self, graph: ir.Graph, numbers: Numbers, functions: Mapping[ir.OperatorIdentifier, str], depth: int
    ) -> None:
        for value in graph.initializers.values():
            if value.const_value is not None:
                overridable = numbers.get(value, NO_INPUT)
                numbers[value] = self._number(("constant", overridable, _content(value.const_value)))
        for node in graph:
            self._node(node, numbers, functions, depth)

    def _node(
        self, node: ir.Node, numbers: Numbers, functions: Mapping[ir.OperatorIdentifier, str], depth: int
    ) -> None:
        standard = node.domain in STANDARD
        tensor = ir.convenience.get_const_tensor(node.outputs[0]) if node.op_type == "Constant" and standard else None
        if tensor is not None:
            numbers[node.outputs[0]] = self._number(("constant", NO_INPUT, _content(tensor)))
            return
        read = tuple(NO_INPUT if value is None else numbers[value] for value in node.inputs)
        if node.op_type == "Identity" and standard:
            numbers[node.outputs[0]] = read[0]
            return
        # Equal names stand for equal draws, and for equal calls of what nobody knows.
        own = node.outputs[0].name if node.op_type in RANDOM or not standard else ""
        attributes = tuple(
            (attribute.name, attribute.type, self._attribute(attribute, numbers, functions, depth))
            for attribute in sorted(node.attributes.values(), key=lambda attribute: attribute.name)
        )
        identifier = node.op_identifier()
        key = (("" if standard else node.domain, *identifier[1:]), functions.get(identifier), own, read, attributes)
        for index, output in enumerate(node.outputs):
            numbers[output] = self._number((key, index))

    def _attribute(
        self,
        attribute: ir.Attr,
        numbers: Numbers,
        functions: Mapping[ir.OperatorIdentifier, str],
        depth: int,
    ) -> object:
        if attribute.type not in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
            value = attribute.value
            return _content(value) if isinstance(value, ir.TensorProtocol) else repr(value)
        graphs = [attribute.as_graph()] if attribute.type == ir.AttributeType.GRAPH else attribute.as_graphs()
        found = []
        for graph in graphs:
            inner = dict(numbers)
            for position, value in enumerate(graph.inputs):
                inner[value] = self._number(("parameter", depth, position))
            self._body(graph, inner, functions, depth + 1)
            found.append(tuple(inner[value] for value in graph.outputs))
        return tuple(found)


def _content(tensor: ir.TensorProtocol) -> tuple[object, ...]:
    if tensor.dtype == ir.DataType.STRING:
        return tensor.dtype, tuple(tensor.shape.numpy()), repr(tensor.numpy().tolist())
    return tensor.dtype, tuple(tensor.shape.numpy()), _digest(tensor.tobytes())


def _digest(data: bytes) -> str:
    return sha256(data).hexdigest()


def _boundary(outputs: list[ir.Value], numbers: Numbers, shared: set[int]) -> list[ir.Value]:
    """The last values before ``outputs`` that both models share, constants and what is made of them left out."""
    if not outputs:
        return []
    main = outputs[0].graph
    found: dict[ir.Value, None] = {}
    pending, seen = list(outputs), set(outputs)
    varies = _varying(outputs)
    while pending:
        value = pending.pop()
        if value not in varies:
            continue
        node = value.producer()
        if node is None or (numbers[value] in shared and value not in outputs):
            found[value] = None
            continue
        for operand in _operands(node):
            if operand.graph is main and operand not in seen:
                seen.add(operand)
                pending.append(operand)
    return list(found)


def _varying(outputs: list[ir.Value]) -> set[ir.Value]:
    """The values of the main graph that depend on its inputs or on chance."""
    graph = outputs[0].graph
    if not isinstance(graph, ir.Graph):
        raise TypeError("an output of no graph")
    varying = set(graph.inputs)
    for node in graph:
        if node.op_type in RANDOM or not varying.isdisjoint(_operands(node)):
            varying.update(node.outputs)
    return varying


def _operands(node: ir.Node) -> Iterator[ir.Value]:
    """What ``node`` reads, also from inside its subgraphs."""
    yield from (value for value in node.inputs if value is not None)
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            graphs = [attribute.as_graph()]
        elif attribute.type == ir.AttributeType.GRAPHS:
            graphs = list(attribute.as_graphs())
        else:
            continue
        for graph in graphs:
            yield from graph.outputs
            for inner in graph:
                yield from _operands(inner)


def _as_input(value: ir.Value, shapes: Shapes) -> ir.Value | None:
    """``value`` as an input of a model; None where it is no tensor of known type and rank."""
    dtype, dims = shapes.dtype(value), shapes.of(value)
    tensor = value.type is None or isinstance(value.type, ir.TensorType)
    if dtype is None or dims is None or dtype == ir.DataType.STRING or not tensor:
        return None
    return ir.Value(name=value.name, type=ir.TensorType(dtype), shape=ir.Shape(dims))


def _cut(model: ir.Model, numbers: Numbers, inputs: Mapping[int, ir.Value], changed: list[int]) -> None:
    """Make what ``numbers`` calls ``inputs`` inputs of ``model``, and keep the ``changed`` of its outputs."""
    graph = model.graph
    outputs = [graph.outputs[k] for k in changed]
    fresh = {n: ir.Value(name=v.name, type=v.type, shape=v.shape) for n, v in inputs.items()}
    for value, number in numbers.items():
        if number in fresh and value not in outputs:
            value.replace_all_uses_with(fresh[number], replace_graph_outputs=True)
            value.name = f"{value.name} before the part"
    graph.inputs[:] = fresh.values()
    graph.outputs[:] = outputs
    RemoveUnusedNodesPass()(model)
