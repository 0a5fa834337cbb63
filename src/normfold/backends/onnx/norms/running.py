"""What a BatchNormalization stores."""

from __future__ import annotations

import onnx_ir as ir

from normfold.backends.onnx.lift.context import Context
from normfold.core.health import RunningNorm


def running_norm(context: Context, node: ir.Node) -> RunningNorm:
    """The parameters and the running statistics of a BatchNormalization, as far as they are constants."""
    operands = [*node.inputs[1:5], None, None, None, None][:4]
    gamma, beta, mean, variance = (context.constants.array(value) for value in operands)
    stored = None if operands[3] is None else operands[3].dtype
    return RunningNorm(
        gamma,
        beta,
        mean,
        variance,
        node.attributes.get_float("epsilon", 1e-5),
        dtype=None if stored is None or not stored.is_floating_point() else stored.numpy(),
        training=_trains(context, node),
    )


def _trains(context: Context, node: ir.Node) -> bool:
    if context.opset < 7:
        return not node.attributes.get_int("is_test", 0)
    return bool(node.attributes.get_int("training_mode", 0)) or sum(bool(output.name) for output in node.outputs) > 1
