"""Dimensions of values: as the model states them, as inference finds them, or as a convolution implies them."""

from __future__ import annotations

import logging

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from normfold.algebra.moves import Dim


class Shapes:
    """Looks dimensions up; runs shape inference over a copy of the model once, and only when it must."""

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._inferred: dict[ir.Value, tuple[Dim, ...]] | None = None

    def of(self, value: ir.Value) -> tuple[Dim, ...] | None:
        """The dimensions of ``value``: sizes, names, ``None`` each where unknown; ``None`` where the rank is."""
        known = _stated(value)
        if known is not None:
            return known
        if self._inferred is None:
            self._inferred = _infer(self._model)
        return self._inferred.get(value) or _after_convolution(value)


def _infer(model: ir.Model) -> dict[ir.Value, tuple[Dim, ...]]:
    """What inference finds for the values of ``model``, which stays as it is."""
    # Inference that fails finds nothing; the premises that need shapes then say so.
    logging.getLogger("onnx_ir.passes.common.shape_inference").setLevel(logging.CRITICAL)
    copy = model.clone()
    ShapeInferencePass(check_type=False, strict_mode=False)(copy)
    found = {}
    for mine, theirs in zip(model.graphs(), copy.graphs(), strict=True):
        values = ir.convenience.create_value_mapping(theirs)
        for name, value in ir.convenience.create_value_mapping(mine).items():
            known = _stated(values[name]) if name in values else None
            if known is not None:
                found[value] = known
    return found


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
