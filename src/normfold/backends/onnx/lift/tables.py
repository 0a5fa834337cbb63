"""Gather from a constant table, and Expand of a constant row, as `Embedding`."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from normfold.backends.onnx.lift.context import Context, data
from normfold.backends.onnx.lift.moving import gather_elements
from normfold.backends.onnx.reading.constants import FLOATS, OVERRIDABLE, TableTensor, largest
from normfold.core.algebra import Affine, Table
from normfold.core.premises import LINEAR_PRODUCER, NOT_OVERRIDABLE, PARAMETER_UNTIED, ROW_AXIS
from normfold.core.views import Embedding, NotLifted, View


def _gather(context: Context, node: ir.Node) -> View:
    """A row of a table for every index; a Gather of what is computed at run time takes elements out of it."""
    value, indices = data(node, 0), data(node, 1)
    found = context.constants.find(value)
    if isinstance(found, str) and found.endswith(OVERRIDABLE):
        raise NotLifted(NOT_OVERRIDABLE, f"the table of {context.label(node)} is not constant: {found}")
    if isinstance(found, str) or found.dtype not in FLOATS:
        return gather_elements(context, node)
    shape = tuple(found.shape.numpy())
    if context.axes(node, (node.attributes.get_int("axis", 0),), len(shape)) != [-len(shape)]:
        raise NotLifted(ROW_AXIS, f"{context.label(node)} does not read its table along the first axis")
    if _is_shared(context, value, found.size):
        because = f"something else reads the table of {context.label(node)}, too, and a copy would be as large"
        raise NotLifted(PARAMETER_UNTIED, because)
    table = found.table if isinstance(found, TableTensor) else Table(found, shape, Affine.of())
    return Embedding(
        node=node,
        op=node.op_type,
        inputs=(indices,),
        outputs=tuple(node.outputs),
        table=table,
        largest=largest(found.dtype),
    )


def _expand(context: Context, node: ir.Node) -> View:
    """A constant that is repeated along its first axis, as a class token for each sample: a table of one row."""
    value = data(node, 0)
    found, output = context.constants.find(value), context.shape(node.outputs[0])
    if isinstance(found, str) or found.dtype not in FLOATS:
        raise NotLifted(LINEAR_PRODUCER, f"{context.label(node)} repeats what is not a floating-point constant")
    shape = tuple(found.shape.numpy())
    if output is None or len(shape) < 2 or shape[0] != 1 or output[1 - len(shape) :] != shape[1:]:
        raise NotLifted(ROW_AXIS, f"{context.label(node)} does not repeat its constant along the first axis alone")
    if _is_shared(context, value, found.size):
        raise NotLifted(PARAMETER_UNTIED, f"something else reads the constant of {context.label(node)}, too")
    table = found.table if isinstance(found, TableTensor) else Table(found, shape, Affine.of())
    return Embedding(
        node=node, op=node.op_type, inputs=(), outputs=tuple(node.outputs), table=table, largest=largest(found.dtype)
    )


def _is_shared(context: Context, value: ir.Value, size: int) -> bool:
    """Whether ``value``, or a tensor as large that it is computed from, has another reader."""
    operands = (operand for node in context.constants.computing(value) for operand in node.inputs)
    read = [value, *(operand for operand in operands if operand is not None and _is_as_large(context, operand, size))]
    return any(len(one.uses()) > 1 or one.is_graph_output() for one in read)


def _is_as_large(context: Context, value: ir.Value, size: int) -> bool:
    found = context.constants.find(value)
    return not isinstance(found, str) and found.size >= size


LIFTS: dict[str, Callable[[Context, ir.Node], View]] = {"Gather": _gather, "Expand": _expand}
