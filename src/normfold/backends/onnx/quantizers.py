"""A quantised model without the steps of its activations, for comparing two that have the same ones.

A quantiser turns a rounding of 1e-7 into a whole step of its scale, and the steps of many layers add up: two models
that differ by nothing else lie several steps apart. With their quantisers taken out, and the biases that a fold has
rounded to steps as they were before, the two are as close as their constants are.
"""

from __future__ import annotations

import onnx_ir as ir

from normfold.backends.onnx.lift.quantized import DOMAINS, dequantizer_of
from normfold.backends.onnx.norms.sites import walk_model
from normfold.backends.onnx.reading.constants import ExactTensor
from normfold.backends.onnx.write.commit import sweep


def quantizes_activations(model: ir.Model) -> bool:
    """Whether some value that is not constant is quantised and dequantised."""
    return any(_quantized(node) is not None for node, _ in walk_model(model))


def take_out_quantizers(model: ir.Model) -> None:
    """Make every quantised and dequantised activation of ``model`` what it was before, and every bias unrounded."""
    for node, _ in list(walk_model(model)):
        before = _quantized(node) or _unrounded(node)
        if before is not None:
            operands = [operand for operand in node.inputs if operand is not None]
            node.op_type, node.domain = "Identity", ""
            node.attributes.clear()
            node.resize_inputs(1)
            node.replace_input_with(0, before)
            for operand in operands:
                sweep(operand)


def _quantized(node: ir.Node) -> ir.Value | None:
    """The value that ``node`` dequantises right after it was quantised; constants do not count."""
    codes = node.inputs[0] if node.outputs and dequantizer_of(node.outputs[0]) is node else None
    quantizer = None if codes is None else codes.producer()
    if quantizer is None or quantizer.op_type != "QuantizeLinear" or quantizer.domain not in DOMAINS:
        return None
    value = quantizer.inputs[0]
    return None if value is None or _is_stored(value) else value


def _is_stored(value: ir.Value) -> bool:
    """Whether ``value`` is an initializer, or computed from nothing else."""
    node = value.producer()
    if node is None:
        return value.is_initializer()
    return all(_is_stored(operand) for operand in node.inputs if operand is not None)


def _unrounded(node: ir.Node) -> ir.Value | None:
    """The bias that ``node`` dequantises, where a fold has made it, as it was before it was rounded."""
    if not node.outputs or dequantizer_of(node.outputs[0]) is not node:
        return None
    codes, step = node.inputs[:2]
    held, scale = (None if value is None else value.const_value for value in (codes, step))
    if codes is None or not isinstance(held, ExactTensor) or not isinstance(scale, ExactTensor):
        return None
    codes.const_value = ExactTensor(held.exact * scale.exact, scale.dtype, codes.name)
    codes.type = ir.TensorType(scale.dtype)
    return codes
