"""Models in sixteen bits: which operations may compute in them, and the casts between them and the others.

Inputs and outputs of the model keep their types. An operation stays in float32 where a value that it reads or makes may
be larger than sixteen bits hold, where its operator has no such form, or where what it reads is no number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import onnx
import onnx_ir as ir

from normfold.backends.onnx.bounds import Bounds
from normfold.backends.onnx.dequantize.steps import tensor_of
from normfold.backends.onnx.graph import OnnxGraph
from normfold.backends.onnx.reading.constants import largest
from normfold.backends.onnx.reading.names import Names
from normfold.backends.onnx.write.commit import add_constant

HEADROOM: Final = 2.0
"""How many times larger than its bound the largest number must be: sums are rounded, and added in any order."""
SQUARED: Final = frozenset({"InstanceNormalization", "ReduceL2", "ReduceSumSquare", "LpNormalization", "Pow"})
"""Operators that square what they read on the way; a LayerNormalization does that in float32."""
SUMMED: Final = frozenset({"GlobalAveragePool", "ReduceMean", "ReduceSum", "AveragePool"})
"""Operators that add up what they read on the way."""
NEVER: Final = frozenset(
    {"Cast", "CastLike", "QuantizeLinear", "DequantizeLinear", "Constant", "ConstantOfShape", "Range", "Shape", "Size"}
)
"""Operators that have nothing to gain, or whose types say what they do."""
BODIES: Final = frozenset({ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS})
TYPES: Final = {ir.DataType.FLOAT16: "tensor(float16)", ir.DataType.BFLOAT16: "tensor(bfloat16)"}


@dataclass(frozen=True, slots=True)
class Halved:
    """What became of each node of the main graph: why it stays in float32, empty where it does not."""

    because: Mapping[str, str]
    operators: Mapping[str, str]


def halve(graph: OnnxGraph, dtype: ir.DataType, bounded: Bounds) -> Halved:
    """Let the model of ``graph``, in place, compute in ``dtype`` where values are ``bounded`` so that they fit."""
    model = graph.model
    kept = {node: _reason(graph, node, dtype, bounded) for node in model.graph}
    named = {node: str(node.name or node.outputs[0].name) for node in kept}
    found = Halved({named[node]: why for node, why in kept.items()}, {named[n]: n.op_type for n in kept})
    writer = _Writer(model, dtype, {node: _slots(graph, node, dtype) for node, why in kept.items() if not why})
    writer.run(graph)
    return found


def _reason(graph: OnnxGraph, node: ir.Node, dtype: ir.DataType, bounded: Bounds) -> str:
    """Why ``node`` stays in float32; empty where it does not."""
    if node.op_type in NEVER or node.domain not in ("", "ai.onnx"):
        return "it has no form in sixteen bits"
    if any(
        attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for attribute in node.attributes.values()
    ):
        return "it holds a graph of its own"
    if not _slots(graph, node, dtype):
        return "it has no form in sixteen bits"
    limit = largest(dtype) / HEADROOM
    for value in (*node.inputs, *node.outputs):
        if value is None or not _is_float(graph, value):
            continue
        size = _largest(bounded, value, node)
        if not size <= limit:
            said = "nothing bounds" if size == np.inf else f"it may reach {size:.3g}, by a bound on"
            return f"{said} {value.name!r}"
    return ""


def _largest(bounded: Bounds, value: ir.Value, node: ir.Node) -> float:
    """The largest number on the way from or to ``value`` in ``node``."""
    tensor = tensor_of(value)
    size = float(np.abs(tensor.numpy().astype(np.float64)).max(initial=0.0)) if tensor is not None else bounded[value]
    if value not in node.inputs:
        return size
    if node.op_type in SQUARED:
        return 4.0 * size * size
    dims = value.shape
    if node.op_type in SUMMED and dims is not None and size:
        spatial = [dim for dim in dims[1:] if isinstance(dim, int)]
        return size * float(max(spatial, default=1) ** min(2, len(spatial)))
    return size


def _is_float(graph: OnnxGraph, value: ir.Value) -> bool:
    tensor = tensor_of(value)
    return (graph.dtype(value) if tensor is None else tensor.dtype) == ir.DataType.FLOAT


def _slots(graph: OnnxGraph, node: ir.Node, dtype: ir.DataType) -> frozenset[int]:
    """The inputs of ``node`` that may have ``dtype`` in place of float32; empty where its schema does not let it."""
    version = graph.model.opset_imports.get("", graph.model.opset_imports.get("ai.onnx", 1))
    try:
        schema = onnx.defs.get_schema(node.op_type, version, "")
    except onnx.defs.SchemaError:
        return frozenset()
    allowed = {one.type_param_str: set(one.allowed_type_strs) for one in schema.type_constraints}
    made = [schema.outputs[min(i, len(schema.outputs) - 1)].type_str for i, _ in enumerate(node.outputs)]
    floats = [kind for kind, output in zip(made, node.outputs, strict=True) if _is_float(graph, output)]
    if any(TYPES[dtype] not in allowed.get(kind, ()) for kind in floats):
        return frozenset()
    slots = set()
    for slot, value in enumerate(node.inputs):
        kind = schema.inputs[min(slot, len(schema.inputs) - 1)].type_str
        if value is not None and _is_float(graph, value) and TYPES[dtype] in allowed.get(kind, ()):
            slots.add(slot)
    return frozenset(slots) if floats or slots else frozenset()


@dataclass
class _Writer:
    """Puts casts where an operation in one type reads what one in the other makes; each value is cast once."""

    model: ir.Model
    dtype: ir.DataType
    slots: Mapping[ir.Node, frozenset[int]]
    """Operations that compute in ``dtype``, and which of their inputs do."""
    narrow: dict[ir.Value, ir.Value] = field(default_factory=dict)
    wide: dict[ir.Value, ir.Value] = field(default_factory=dict)

    def run(self, graph: OnnxGraph) -> None:
        self._names = Names(self.model)
        halves = {output for node in self.slots for output in node.outputs if _is_float(graph, output)}
        nodes = list(self.model.graph)
        for output in halves:
            output.type = ir.TensorType(self.dtype)
        for node in nodes:
            for slot, value in enumerate(node.inputs):
                if value is not None and (slot in self.slots.get(node, ())) != (value in halves):
                    node.replace_input_with(slot, self._widened(value) if value in halves else self._narrowed(value))
        self._bodies(nodes, halves)
        self._outputs(halves)

    def _narrowed(self, value: ir.Value) -> ir.Value:
        if value not in self.narrow:
            tensor = tensor_of(value)
            if tensor is not None:
                held = ir.Tensor(tensor.numpy().astype(self.dtype.numpy()), dtype=self.dtype)
                name = self._names.fresh(f"{value.name}_half")
                self.narrow[value] = add_constant(self.model, self.model.graph, held, name)
            else:
                self.narrow[value] = self._cast(value, self.dtype, "half")
        return self.narrow[value]

    def _widened(self, value: ir.Value) -> ir.Value:
        if value not in self.wide:
            self.wide[value] = self._cast(value, ir.DataType.FLOAT, "float")
        return self.wide[value]

    def _cast(self, value: ir.Value, dtype: ir.DataType, what: str) -> ir.Value:
        output = ir.Value(name=self._names.fresh(f"{value.name}_{what}"), shape=value.shape, type=ir.TensorType(dtype))
        name = self._names.fresh(f"{value.name}_to_{what}")
        made: Any = ir.node("Cast", [value], {"to": int(dtype)}, outputs=[output], name=name)
        maker = value.producer()
        if maker is None:
            self.model.graph.insert_before(self.model.graph[0], made)
        else:
            self.model.graph.insert_after(maker, made)
        return output

    def _bodies(self, nodes: list[ir.Node], halves: set[ir.Value]) -> None:
        """What the bodies of other operations read from the graph around them is float32, as before."""
        for value in halves:
            for user, slot in list(value.uses()):
                if user.graph is not self.model.graph and user not in nodes:
                    user.replace_input_with(slot, self._widened(value))

    def _outputs(self, halves: set[ir.Value]) -> None:
        for index, output in enumerate(self.model.graph.outputs):
            if output in halves:
                wide = self._widened(output)
                wide.name, output.name = output.name, self._names.fresh(f"{output.name}_half")
                self.model.graph.outputs[index] = wide


def emulated(model: ir.Model, dtype: ir.DataType) -> None:
    """Let every operation of ``model`` in ``dtype`` compute in float32 and round what it makes, in place.

    That is what kernels for ``dtype`` come to, for a runtime that has none.
    """
    names, widened = Names(model), dict[ir.Value, ir.Value]()
    for node in list(model.graph):
        if node.op_type == "Cast":
            continue
        for slot, value in enumerate(node.inputs):
            if value is not None and value.dtype == dtype:
                if value not in widened:
                    widened[value] = _in_float32(model, node, value, names)
                node.replace_input_with(slot, widened[value])
        for output in node.outputs:
            if output.dtype == dtype:
                _rounded(model, node, output, names)


def _in_float32(model: ir.Model, node: ir.Node, value: ir.Value, names: Names) -> ir.Value:
    name, tensor = names.fresh(f"{value.name}_exactly"), tensor_of(value)
    if tensor is not None:
        return add_constant(model, model.graph, ir.Tensor(tensor.numpy().astype(np.float32)), name)
    output = ir.Value(name=name, shape=value.shape, type=ir.TensorType(ir.DataType.FLOAT))
    cast = ir.node("Cast", [value], {"to": int(ir.DataType.FLOAT)}, outputs=[output], name=names.fresh(f"{name}_cast"))
    model.graph.insert_before(node, cast)
    return output


def _rounded(model: ir.Model, node: ir.Node, output: ir.Value, names: Names) -> None:
    dtype = output.dtype
    if dtype is None:
        raise TypeError("a value without a type")
    made = ir.Value(name=names.fresh(f"{output.name}_rounded"), shape=output.shape, type=ir.TensorType(dtype))
    cast = ir.node("Cast", [output], {"to": int(dtype)}, outputs=[made], name=names.fresh(f"{output.name}_round"))
    output.replace_all_uses_with(made)
    cast.replace_input_with(0, output)
    output.type = ir.TensorType(ir.DataType.FLOAT)
    model.graph.insert_after(node, cast)
