"""LSTM, GRU and RNN as `Recurrent`."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from normfold.backends.onnx.lift.context import Context, data
from normfold.backends.onnx.lift.linear import canonical_weight
from normfold.backends.onnx.reading.constants import exact, largest
from normfold.core.algebra.affine import Array
from normfold.core.premises import WELL_FORMED
from normfold.core.views import NotLifted, Recurrent, View

WEIGHT, BIAS, SEQUENCE_LENGTHS, INITIAL_STATE, INITIAL_CELL = 1, 3, 4, 5, 6
"""Which input is which; between them and behind stand the recurrent weights and the peepholes."""


def _recurrent(context: Context, node: ir.Node) -> View:
    """The weight, and the input half of the bias, of all directions.

    Whatever acts behind the sum of a gate (clip, activations) or on the state alone makes no difference.
    """
    tensor = context.tensor(node, WEIGHT, "the weight")
    native = tuple(tensor.shape.numpy())
    if len(native) != 3:
        raise NotLifted(WELL_FORMED, f"the weight of {context.label(node)} has shape {list(native)}")
    context.same_size(node, data(node), -1, native[2])
    values = (node.inputs[k] for k in (SEQUENCE_LENGTHS, INITIAL_STATE, INITIAL_CELL) if k < len(node.inputs))
    return Recurrent(
        node=node,
        op=node.op_type,
        inputs=(data(node), *(value for value in values if value is not None)),
        outputs=tuple(node.outputs),
        weights=(canonical_weight(tensor, native, "goi"),),
        biases=(_bias(context, node, native),),
        bias_slot=True,
        largest=largest(tensor.dtype),
    )


def _bias(context: Context, node: ir.Node, native: tuple[int, ...]) -> Array | None:
    """The first half of ``[directions, 2 * gates * hidden]``; the other half belongs to the state."""
    tensor = context.optional(node, BIAS, "the bias")
    if tensor is None:
        return None
    bias = exact(tensor)
    if bias.shape != (native[0], 2 * native[1]):
        raise NotLifted(WELL_FORMED, f"the bias of {context.label(node)} has shape {list(bias.shape)}")
    return bias[:, : native[1]].reshape(-1)


LIFTS: dict[str, Callable[[Context, ir.Node], View]] = {"LSTM": _recurrent, "GRU": _recurrent, "RNN": _recurrent}
