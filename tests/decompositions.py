"""What norms compute, in elementary operations that every opset since 18 has: the reference of what is written out."""

from __future__ import annotations

from onnxscript import DOUBLE, INT64, script
from onnxscript import opset18 as op
from onnxscript.values import Opset

HERE = Opset("normfold.tests", 1)


@script(HERE, default_opset=op)
def layer_norm(x: DOUBLE, epsilon: DOUBLE, g: DOUBLE, b: DOUBLE) -> DOUBLE:
    """Over the last axis."""
    centred = x - op.ReduceMean(x, op.Constant(value_ints=[-1]), keepdims=1)
    variance = op.ReduceMean(centred * centred, op.Constant(value_ints=[-1]), keepdims=1)
    return centred / op.Sqrt(variance + epsilon) * g + b


@script(HERE, default_opset=op)
def rms_norm(x: DOUBLE, epsilon: DOUBLE, g: DOUBLE) -> DOUBLE:
    """Over the last axis."""
    square = op.ReduceMean(x * x, op.Constant(value_ints=[-1]), keepdims=1)
    return x / op.Sqrt(square + epsilon) * g


@script(HERE, default_opset=op)
def group_norm(x: DOUBLE, epsilon: DOUBLE, g: DOUBLE, b: DOUBLE, rows: INT64) -> DOUBLE:
    """Over ``rows``, ``[0, groups, -1]``; an InstanceNorm has a group for each channel."""
    flat = op.Reshape(x, rows)
    centred = flat - op.ReduceMean(flat, op.Constant(value_ints=[-1]), keepdims=1)
    variance = op.ReduceMean(centred * centred, op.Constant(value_ints=[-1]), keepdims=1)
    normed = op.Reshape(centred / op.Sqrt(variance + epsilon), op.Shape(x))
    return normed * g + b
