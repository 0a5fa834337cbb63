"""An exported model with the module's own names, and without what it says about the machine that exported it."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import Final

import onnx_ir

from normfold.models.exporter.interface import Interface
from normfold.records import RECORDS_KEY, StatisticsRecord, packed

SCOPES: Final = "pkg.torch.onnx.name_scopes"
NOWHERE: Final = "_empty_nn_module_stack_from_metadata_hook"
"""What PyTorch calls the module of an operation that none of them calls, such as the size of a free dimension."""
WRAPPER: Final = "module."
"""What the wrapper around the user's module puts before every path."""


def tidy(model: onnx_ir.Model, what: Interface, records: Sequence[StatisticsRecord] | None = None) -> None:
    """Name inputs and outputs as ``what`` does, nodes and weights after the modules that they come from.

    ``records`` are those that the module carries; the model carries those whose values it has, by its own names.
    """
    _name_nodes(model)
    values = [(record, value) for record in records or () if (value := _recorded(model.graph, record)) is not None]
    _strip(model)
    _name_weights(model.graph)
    _name_interface(model.graph, what)
    if records is not None:
        model.metadata_props[RECORDS_KEY] = packed(replace(one, value=str(value.name)) for one, value in values)


def _recorded(graph: onnx_ir.Graph, record: StatisticsRecord) -> onnx_ir.Value | None:
    """The value that ``record``, which names it by its module and its operation, is of; None where that is not clear.

    The exporter names a value after its operation.
    """
    path, _, kind = record.value.rpartition(":")
    named = re.compile(rf"{re.escape(kind)}(_\d+)?")
    found = [
        value
        for node in graph
        if path and (str(node.name) == path or str(node.name).startswith(f"{path}:"))
        for value in node.outputs
        if named.fullmatch(str(value.name)) and _has_channels(value, record)
    ]
    return found[0] if len(found) == 1 else None


def _has_channels(value: onnx_ir.Value, record: StatisticsRecord) -> bool:
    if record.axis is None or value.shape is None or len(value.shape) < -record.axis:
        return record.axis is None
    return bool(value.shape[record.axis] == len(record.mean))


def _name_nodes(model: onnx_ir.Model) -> None:
    """A node is called as its module is; as its module and its operator where it has company there."""
    nodes = list(model.graph.all_nodes())
    paths = [_path(node) for node in nodes]
    company = Counter(path for node, path in zip(nodes, paths, strict=True) if node.op_type != "Constant")
    seen: Counter[str] = Counter()
    for node, path in zip(nodes, paths, strict=True):
        alone = path and company[path] == 1 and node.op_type != "Constant"
        name = path if alone else f"{path}:{node.op_type}" if path else node.op_type
        seen[name] += 1
        node.name = name if seen[name] == 1 else f"{name}@{seen[name]}"


def _path(node: onnx_ir.Node) -> str:
    """Where in the module tree ``node`` comes from; empty for the root."""
    scopes = ast.literal_eval(node.metadata_props.get(SCOPES, "[]"))
    path = str(scopes[-2]) if len(scopes) > 1 else ""
    return "" if path in {WRAPPER[:-1], NOWHERE} else path.removeprefix(WRAPPER)


def _strip(model: onnx_ir.Model) -> None:
    """Take out the exporter's notes: source lines and folders of the user's machine among them."""
    model.metadata_props.clear()
    for graph in _graphs(model):
        graph.metadata_props.clear()
        for value in chain(graph.inputs, graph.initializers.values()):
            value.metadata_props.clear()
    for node in _every_node(model):
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()


def _graphs(model: onnx_ir.Model) -> Iterator[onnx_ir.Graph]:
    yield model.graph
    for function in model.functions.values():
        function.metadata_props.clear()
        yield function.graph
    for node in _every_node(model):
        for attribute in node.attributes.values():
            if attribute.type == onnx_ir.AttributeType.GRAPH:
                yield attribute.as_graph()


def _every_node(model: onnx_ir.Model) -> Iterable[onnx_ir.Node]:
    functions = chain.from_iterable(function.all_nodes() for function in model.functions.values())
    return chain(model.graph.all_nodes(), functions)


def _name_weights(graph: onnx_ir.Graph) -> None:
    for value in list(graph.initializers.values()):
        name = str(value.name).removeprefix(WRAPPER)
        if name not in graph.initializers:
            value.name = name


def _name_interface(graph: onnx_ir.Graph, what: Interface) -> None:
    _own_outputs(graph)
    interface = {*graph.inputs, *graph.outputs}
    taken = {*what.inputs, *what.outputs}
    for value in chain(list(graph.initializers.values()), (out for node in graph.all_nodes() for out in node.outputs)):
        if value not in interface and value.name in taken:
            value.name = f"{value.name}_inner"
    # Two steps: a name may be in use by another of them.
    for k, value in enumerate(interface):
        value.name = f"interface:{k}"
    symbols: dict[str, str] = {}
    for name, value in zip(what.inputs, graph.inputs, strict=True):
        value.name = name
        symbols |= _name_axes(value, what.dynamic.get(name, {}))
    for name, value in zip(what.outputs, graph.outputs, strict=True):
        value.name = name
        _rename_symbols(value, symbols)


def _own_outputs(graph: onnx_ir.Graph) -> None:
    """Give each output a value of its own: not an input, a weight or another output."""
    seen: set[onnx_ir.Value] = {*graph.inputs, *graph.initializers.values()}
    for k, value in enumerate(graph.outputs):
        if value in seen:
            node = onnx_ir.node("Identity", [value], name=f"output:{k}")
            node.outputs[0].shape, node.outputs[0].type = value.shape, value.type
            graph.append(node)
            graph.outputs[k] = node.outputs[0]
        seen.add(value)


def _name_axes(value: onnx_ir.Value, axes: dict[int, str] | object) -> dict[str, str]:
    """Call the dynamic sizes as asked; the exporter's own names for them, which outputs may use, by ours."""
    found: dict[str, str] = {}
    if value.shape is None or not isinstance(axes, dict):
        return found
    for axis, symbol in axes.items():
        size = value.shape[axis]
        if isinstance(size, onnx_ir.SymbolicDim) and size.value != symbol:
            found[str(size.value)] = symbol
            value.shape[axis] = onnx_ir.SymbolicDim(symbol)
    return found


def _rename_symbols(value: onnx_ir.Value, symbols: dict[str, str]) -> None:
    for axis, size in enumerate(value.shape or ()):
        if isinstance(size, onnx_ir.SymbolicDim) and str(size.value) in symbols and value.shape is not None:
            value.shape[axis] = onnx_ir.SymbolicDim(symbols[str(size.value)])
