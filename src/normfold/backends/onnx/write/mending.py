"""Biases that are nothing and do not fit their convolution.

PyTorch's exporter writes the zeros of a 3-D convolution without a bias in the shape of the weight instead of one for
each output channel. ONNX Runtime does not run that, and zeros of any shape are what is not added.
"""

from __future__ import annotations

import onnx_ir as ir

from normfold.backends.onnx.reading.constants import Constants, budget
from normfold.backends.onnx.reading.expressions import EXPRESSIONS
from normfold.backends.onnx.write.commit import sweep
from normfold.core.algebra.affine import Array


def drop_empty_biases(model: ir.Model) -> bool:
    """Take the biases of zeros that do not fit out of ``model``; whether there were any."""
    misfits = [node for node in model.graph.all_nodes() if _is_misfit(node)]
    if not misfits:
        return False
    overridable = (model.ir_version or 4) >= 4
    constants = Constants(lambda value: overridable and value.is_graph_input(), EXPRESSIONS, _dims, budget(model))
    empty = [node for node in misfits if _is_empty(constants.array(node.inputs[2]), node)]
    for node in empty:
        bias = node.inputs[2]
        node.resize_inputs(2)
        if bias is not None:
            sweep(bias)
    return bool(empty)


def _is_misfit(node: ir.Node) -> bool:
    """Whether ``node`` is a convolution whose bias is not stated to be one number for each output channel."""
    if node.op_type not in ("Conv", "ConvTranspose") or node.domain not in ("", "ai.onnx") or len(node.inputs) != 3:
        return False
    return node.inputs[2] is not None and _dims(node.inputs[2]) != (_out_channels(node),)


def _is_empty(bias: Array | None, node: ir.Node) -> bool:
    return bias is not None and bool(bias.size) and not bias.any() and bias.shape != (_out_channels(node),)


def _out_channels(node: ir.Node) -> int | None:
    weight = None if node.inputs[1] is None else _dims(node.inputs[1])
    if weight is None or len(weight) < 3:
        return None
    outer, inner = weight[:2]
    if node.op_type == "Conv":
        return outer if isinstance(outer, int) else None
    return inner * node.attributes.get_int("group", 1) if isinstance(inner, int) else None


def _dims(value: ir.Value) -> tuple[int | str | None, ...] | None:
    if value.const_value is not None:
        return tuple(value.const_value.shape.numpy())
    return None if value.shape is None else tuple(dim if isinstance(dim, int) else dim.value for dim in value.shape)
