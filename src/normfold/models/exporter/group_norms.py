"""Group norms of one channel each, which PyTorch's exporter writes as an InstanceNormalization without constants.

It puts the scale and the bias behind it, and around it reshapes that change nothing. The operator has room for both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import onnx_ir
from numpy.typing import NDArray
from onnx_ir import convenience
from onnx_ir.passes import common

CORE: Final = "InstanceNormalization"
LEAST_RANK: Final = 3
"""Dimensions from which on there are positions to normalise over."""


def write_as_instance_norms(model: onnx_ir.Model) -> None:
    """Let each group norm of one channel each be one operation."""
    found = [node for node in model.graph if node.op_type == CORE and _becomes_whole(node)]
    if found:
        common.RemoveUnusedNodesPass()(model)


def _becomes_whole(core: onnx_ir.Node) -> bool:
    """Let ``core`` do what the operations around it do, if they are the rest of such a norm; whether they were."""
    scale, bias = (_array(value) for value in core.inputs[1:3])
    x = _unflattened(core)
    if scale is None or bias is None or x is None or (scale != 1).any() or bias.any():
        return False
    last = _reader(core, "Reshape") or core
    factor = _reader(last, "Mul") if _restores(last, x) else None
    term = None if factor is None else _reader(factor, "Add")
    if factor is None or term is None:
        return False
    constants = [_per_channel(node, before, len(x.shape or ())) for node, before in ((factor, last), (term, factor))]
    if any(array is None or array.shape != scale.shape for array in constants):
        return False
    core.replace_input_with(0, x)
    for slot, array in enumerate(constants, start=1):
        core.replace_input_with(slot, _held(core, f"{term.outputs[0].name}_{slot}", np.asarray(array)))
    made, out = term.outputs[0], core.outputs[0]
    convenience.replace_all_uses_with(made, out, replace_graph_outputs=True)
    made.name, out.name, out.shape, out.type = f"{made.name}_before", made.name, made.shape, made.type
    return True


def _unflattened(core: onnx_ir.Node) -> onnx_ir.Value | None:
    """What ``core`` normalises, before a Reshape that makes one axis of its positions, one channel a group."""
    flat, channels = core.inputs[0], _array(core.inputs[1])
    node = None if flat is None else flat.producer()
    if node is None or node.op_type != "Reshape" or channels is None:
        return None
    x, target = node.inputs[0], _array(node.inputs[1])
    shape = None if x is None else x.shape
    if shape is None or len(shape) < LEAST_RANK or shape[1] != channels.size or target is None:
        return None
    return x if list(target) == [0, channels.size, -1] and not node.attributes.get_int("allowzero", 0) else None


def _reader(node: onnx_ir.Node, operator: str) -> onnx_ir.Node | None:
    """What alone reads the output of ``node``, if it is the ``operator``."""
    output = node.outputs[0]
    uses = [] if output.is_graph_output() else list(output.uses())
    return uses[0].node if len(uses) == 1 and uses[0].node.op_type == operator else None


def _restores(last: onnx_ir.Node, x: onnx_ir.Value) -> bool:
    """Whether ``last`` makes what has the shape of ``x``, which a Shape may tell it when it runs."""
    told = last.inputs[1].producer() if last.op_type == "Reshape" and last.inputs[1] is not None else None
    if told is not None:
        whole = "end" not in told.attributes and not told.attributes.get_int("start", 0)
        return told.op_type == "Shape" and told.inputs[0] is x and whole
    made = last.outputs[0].shape
    return made is not None and x.shape is not None and made.is_static() and tuple(made) == tuple(x.shape)


def _per_channel(node: onnx_ir.Node, before: onnx_ir.Node, rank: int) -> NDArray[Any] | None:
    """The other operand of ``node``, which reads what ``before`` makes, where it has one number for each channel."""
    others: Sequence[onnx_ir.Value | None] = [value for value in node.inputs if value is not before.outputs[0]]
    array = _array(others[0]) if len(others) == 1 else None
    if array is None or array.ndim != rank - 1 or any(size != 1 for size in array.shape[1:]):
        return None
    return array.reshape(-1)


def _array(value: onnx_ir.Value | None) -> NDArray[Any] | None:
    return None if value is None or value.const_value is None else value.const_value.numpy()


def _held(core: onnx_ir.Node, name: str, array: NDArray[Any]) -> onnx_ir.Value:
    """``array`` as a weight of the graph of ``core``."""
    if not isinstance(core.graph, onnx_ir.Graph):
        raise TypeError(f"{core.name} stands in no graph")
    tensor = onnx_ir.tensor(array, name=name)
    held = onnx_ir.Value(
        name=name, shape=onnx_ir.Shape(array.shape), type=onnx_ir.TensorType(tensor.dtype), const_value=tensor
    )
    core.graph.register_initializer(held)
    return held
