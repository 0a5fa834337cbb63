"""Puts the preprocessing of an image in front of a model, as operations that rules then fold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import onnx_ir as ir

from normfold.backends.onnx.reading.constants import FLOATS, ExactTensor
from normfold.backends.onnx.reading.inline import NAME
from normfold.backends.onnx.reading.names import Names
from normfold.backends.onnx.write.commit import add_constant
from normfold.core.preprocess import Preprocess, Stage
from normfold.errors import UsageError

STAGE: Final = "normfold.preprocess"
"""Metadata key of the operations put in; its value says whether rules can fold the operation."""
SITE: Final = "preprocess"


def bind(model: ir.Model, preprocess: Preprocess) -> Stage:
    """``preprocess`` for the input of ``model`` that it names, or for its only one.

    Raises:
        UsageError: ``bad-preprocess``: there is no such input, or it does not fit.
    """
    value = _input(model, preprocess.input)
    name = value.name or ""
    if value.dtype not in FLOATS:
        kind = "no tensor" if value.dtype is None else value.dtype.name.lower()
        raise UsageError("bad-preprocess", f"Input {name!r} takes {kind}, not a floating-point type.")
    if value.is_graph_output():
        raise UsageError("bad-preprocess", f"Input {name!r} is an output of the model as well.")
    dims = None if value.shape is None else [dim if isinstance(dim, int) else dim.value for dim in value.shape]
    return preprocess.on(name, dims, value.dtype.numpy())


def _input(model: ir.Model, wanted: str | None) -> ir.Value:
    inputs = {value.name: value for value in model.graph.inputs if value.name not in model.graph.initializers}
    names = f"Its inputs: {', '.join(map(repr, inputs)) or 'none'}."
    if wanted is None and len(inputs) != 1:
        raise UsageError(
            "bad-preprocess", f"The model has {len(inputs)} inputs.", f"Choose one with input=NAME. {names}"
        )
    if wanted is not None and wanted not in inputs:
        raise UsageError("bad-preprocess", f"The model has no input named {wanted!r}.", names)
    return next(iter(inputs.values())) if wanted is None else inputs[wanted]


@dataclass(frozen=True, eq=False, slots=True)
class Operation:
    """One operation to put in; those with a constant can be folded."""

    op: str
    constant: ir.TensorProtocol | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)


def insert(model: ir.Model, stage: Stage) -> None:
    """Make ``model`` take the raw image under the name of the input that ``stage`` is bound to.

    Transpose and Cast come first, on the smallest numbers; then the shift in raw units, the scale, and the order of
    the channels, next to what may absorb them.

    Raises:
        UsageError: ``bad-preprocess``: the model's opset has no arithmetic by channel.
    """
    if stage.affine.shape and model.opset_imports.get("", 1) < 7:
        raise UsageError("bad-preprocess", "Arithmetic by channel needs opset 7.", "Convert the model to a newer one.")
    fresh = Names(model).fresh
    graph = model.graph
    at = next(k for k, value in enumerate(graph.inputs) if value.name == stage.name)
    old = graph.inputs[at]
    raw = ir.Value(name=stage.name, type=_type(stage.raw), shape=_shape(old, stage.back))
    old.name = fresh(f"{stage.name}_prepared")
    undone = _undone(old, stage)
    shape = raw.shape if undone else _shape(old)
    nodes: list[ir.Node] = []
    value = raw
    for operation in _operations(stage, in_raw_layout=bool(undone)):
        node = _node(model, operation, value, fresh)
        value = node.outputs[0]
        value.type, value.shape = _type(stage.raw if node.op_type == "Transpose" else stage.dtype), shape
        if node.meta[STAGE] and not preprocessing(nodes):
            node.meta[NAME] = SITE
        nodes.append(node)
    for node in undone:
        node.outputs[0].replace_all_uses_with(value)
        graph.remove(node, safe=True)
    old.replace_all_uses_with(value)
    graph.inputs[at] = raw
    if nodes:
        graph.insert_before(graph[0], nodes)


def _node(model: ir.Model, operation: Operation, value: ir.Value, fresh: Callable[[str], str]) -> ir.Node:
    output = ir.Value(name=fresh(f"{SITE}_{operation.op.lower()}"))
    operands = [value]
    if operation.constant is not None:
        operands.append(add_constant(model, model.graph, operation.constant, fresh(f"{output.name}_constant")))
    node = ir.node(operation.op, operands, operation.attributes, outputs=[output], name=output.name)
    node.meta[STAGE] = operation.constant is not None
    return node


def preprocessing(nodes: Iterable[ir.Node]) -> list[ir.Node]:
    """Those of ``nodes`` that were put in and can be folded."""
    return [node for node in nodes if node.meta.get(STAGE)]


def _operations(stage: Stage, *, in_raw_layout: bool) -> Iterator[Operation]:
    dtype = ir.DataType.from_numpy(stage.dtype)
    if stage.order and not in_raw_layout:
        yield Operation("Transpose", attributes={"perm": stage.order})
    if stage.raw != stage.dtype:
        yield Operation("Cast", attributes={"to": dtype.value})
    for op, constants, neutral in (("Sub", stage.shift, 0), ("Mul", stage.scale, 1)):
        if (constants != neutral).any():
            held = stage.in_raw_order(constants)
            yield Operation(op, ExactTensor(stage.in_raw_layout(held) if in_raw_layout else held, dtype))
    if stage.swapped:
        axis = stage.order[stage.axis] if in_raw_layout else stage.rank + stage.axis
        yield Operation("Gather", ir.tensor(np.asarray(stage.swapped, dtype=np.int64)), {"axis": axis})


def _undone(value: ir.Value, stage: Stage) -> tuple[ir.Node, ...]:
    """The model's own operations that turn the layout back to the raw one, where nothing else reads the input."""
    readers = value.consumers()
    turned = all(
        node.op_type == "Transpose"
        and list(node.attributes.get_ints("perm", ())) == list(stage.back)
        and not node.outputs[0].is_graph_output()
        for node in readers
    )
    return tuple(readers) if stage.order and turned else ()


def _type(dtype: np.dtype[Any]) -> ir.TensorType:
    return ir.TensorType(ir.DataType.from_numpy(dtype))


def _shape(value: ir.Value, order: Sequence[int] = ()) -> ir.Shape | None:
    """The shape of ``value``, its axes in ``order``."""
    if value.shape is None:
        return None
    return ir.Shape([value.shape[k] for k in order] if len(order) else list(value.shape))
