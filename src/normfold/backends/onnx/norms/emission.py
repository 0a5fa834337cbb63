"""A norm that is written out, as a view and as the one operator that it amounts to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod

import numpy as np
import onnx_ir as ir

from normfold.backends.onnx.lift.context import Context
from normfold.backends.onnx.lift.norms import live_statistics
from normfold.backends.onnx.norms.decompositions import INSTANCE, LAYER, RMS, Decomposition
from normfold.backends.onnx.reading.constants import ExactTensor, largest
from normfold.backends.onnx.write.commit import sweep
from normfold.core.algebra import Affine
from normfold.core.premises import (
    HAS_KERNEL,
    KNOWN_RANK,
    KNOWN_SIZES,
    OPSET_HAS_OPERATOR,
    REPRESENTABLE,
    SINGLE_USE,
    TRAILING_AXES,
)
from normfold.core.views import Groups, Norm, NormKind, View
from normfold.records import Refusal

OPSETS = {LAYER: 17, RMS: 23, INSTANCE: 6}
"""The opset that brought each operator."""

NORM_KINDS: Mapping[str, NormKind] = {LAYER: "layer", RMS: "rms", INSTANCE: "instance"}
KERNELS: dict[str, frozenset[ir.DataType]] = {
    LAYER: frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16}),
    RMS: frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16}),
    INSTANCE: frozenset({ir.DataType.FLOAT}),
}
"""The types for which ONNX Runtime's default provider has a kernel."""


def written_out(context: Context, found: Decomposition) -> View:
    """``found`` as the norm that it is, with the reasons why it must stay written out."""
    refusal = _refusal(context, found)
    sizes = None if refusal is not None else _sizes(context, found)
    dtype, tail = found.dtype, None
    if sizes is not None:
        tail = Affine.of(np.broadcast_to(found.tail.scale, sizes), np.broadcast_to(found.tail.shift, sizes))
    return Norm(
        node=found.last,
        op=found.operator,
        inputs=(found.input,),
        outputs=(found.last.outputs[0],),
        kind=NORM_KINDS[found.operator],
        axes=found.axes if all(axis < 0 for axis in found.axes) else None,
        epsilon=found.epsilon,
        refusals=() if refusal is None else (refusal,),
        core=live_statistics(repr(context.label(found.named)), found.norm),
        tail=tail,
        holds_shift=found.holds_shift or found.operator == INSTANCE,
        largest=0.0 if sizes is None or dtype is None else largest(dtype),
        groups=Groups(-len(sizes), sizes[0]) if sizes and found.operator == INSTANCE else None,
        parts=found.nodes[:-1],
    )


def _refusal(context: Context, found: Decomposition) -> Refusal | None:
    """The first premise that fails: each may rely on those before it."""
    label, operator, dtype = context.label(found.named), found.operator, found.dtype
    shared = found.shared()
    if shared is not None:
        return Refusal(SINGLE_USE, f"{context.label(shared)} inside of it is read by something else, too")
    if any(axis >= 0 for axis in found.axes):
        return Refusal(KNOWN_RANK, f"the rank of the input of {label} is not known; run shape inference on the model")
    if operator != INSTANCE and found.axes != tuple(range(-len(found.axes), 0)):
        because = f"{label} normalises axes {list(found.axes)}, and {operator} the last ones only"
        return Refusal(TRAILING_AXES, because)
    if context.opset < OPSETS[operator]:
        because = f"opset {context.opset} has no {operator}: export with opset {OPSETS[operator]} or newer"
        return Refusal(OPSET_HAS_OPERATOR, because)
    if dtype not in KERNELS[operator]:
        because = f"ONNX Runtime has no kernel for {operator} of {dtype or 'a type that is not known'}"
        return Refusal(HAS_KERNEL, because)
    if dtype == ir.DataType.DOUBLE and float(np.float32(found.epsilon)) != found.epsilon:
        because = f"{operator} keeps epsilon in float32, which cannot hold the {found.epsilon} of {label}"
        return Refusal(REPRESENTABLE, because)
    if _sizes(context, found) is None:
        return Refusal(KNOWN_SIZES, f"the sizes of the axes that {label} has a scale along are not known")
    return None


def _sizes(context: Context, found: Decomposition) -> tuple[int, ...] | None:
    """The shape of scale and bias, right-aligned with the input."""
    shape = context.shape(found.input)
    if shape is None:
        return None
    dims = (shape[1], *[1] * (len(shape) - 2)) if found.operator == INSTANCE else shape[-len(found.axes) :]
    sizes = tuple(dim for dim in dims if isinstance(dim, int))
    if len(sizes) != len(dims) or not prod(sizes):
        return None
    have = np.broadcast_shapes(found.tail.shape, (1,) * len(sizes))
    return sizes if all(dim in (1, size) for dim, size in zip(have, sizes, strict=True)) else None


def emit(
    view: Norm, found: Decomposition, set_constant: Callable[[ir.Node, int, ir.TensorProtocol, str], None]
) -> None:
    """Turn the last node of ``found`` into the operator with the constants of ``view``; the others go."""
    node, x, tail, dtype = found.last, found.input, view.tail, found.dtype
    if tail is None or dtype is None:
        raise TypeError(f"the norm at {found.named.name!r} cannot be emitted")
    read = [value for value in node.inputs if value is not None]
    node.op_type = found.operator
    node.attributes.clear()
    node.attributes["epsilon"] = ir.AttrFloat32("epsilon", found.epsilon)
    if found.operator != INSTANCE:
        node.attributes["axis"] = ir.AttrInt64("axis", -len(found.axes))
    if dtype == ir.DataType.DOUBLE:
        node.attributes["stash_type"] = ir.AttrInt64("stash_type", int(ir.DataType.DOUBLE))
    node.resize_inputs(1)
    node.replace_input_with(0, x)
    name = node.name or node.outputs[0].name or found.operator
    for slot, role, values in ((1, "scale", tail.scale), (2, "bias", tail.shift)):
        if slot == 1 or view.holds_shift:
            shape = (-1,) if found.operator == INSTANCE else (1,) * (len(found.axes) - len(tail.shape)) + tail.shape
            tensor = ExactTensor(np.broadcast_to(values, tail.shape).reshape(shape), dtype)
            set_constant(node, slot, tensor, f"{name}_{role}")
    for value in read:
        sweep(value)
