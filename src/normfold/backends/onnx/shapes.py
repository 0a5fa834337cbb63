"""Dimensions of values: as the model states them, as inference finds them, or as a convolution implies them."""

from __future__ import annotations

import logging

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from normfold.algebra.moves import Dim


class Shapes:
    """Looks dimensions up; runs shape inference over the whole model once, and only when it must."""

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._inferred = False

    def of(self, value: ir.Value) -> tuple[Dim, ...] | None:
        """The dimensions of ``value``: sizes, names, ``None`` each where unknown; ``None`` where the rank is."""
        if value.shape is None and not self._inferred:
            self._inferred = True
            # Inference that fails leaves the model as it was; the premises that need shapes then say so.
            logging.getLogger("onnx_ir.passes.common.shape_inference").setLevel(logging.CRITICAL)
            ShapeInferencePass(check_type=False, strict_mode=False)(self._model)
        return _stated(value) or _after_convolution(value)


def _stated(value: ir.Value) -> tuple[Dim, ...] | None:
    shape = value.shape
    if shape is None and value.const_value is not None:
        return tuple(value.const_value.shape.numpy())
    if shape is None:
        return None
    return tuple(dim if isinstance(dim, int) else dim.value for dim in shape)


def _after_convolution(value: ir.Value) -> tuple[Dim, ...] | None:
    node = value.producer()
    if node is None or node.op_type not in ("Conv", "ConvTranspose") or len(node.inputs) < 2 or value.index() != 0:
        return None
    weight = node.inputs[1]
    shape = None if weight is None else _stated(weight)
    if shape is None or len(shape) < 3:
        return None
    channels = shape[0] if node.op_type == "Conv" else shape[1]
    if node.op_type == "ConvTranspose" and isinstance(channels, int):
        channels *= node.attributes.get_int("group", 1)
    return (None, channels, *[None] * (len(shape) - 2))
