"""A norm that is written out: as a view, as the one operator that it amounts to, and without its constants."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import prod

import numpy as np
import onnx_ir as ir

from normfold.backends.onnx.lift.context import Context
from normfold.backends.onnx.lift.norms import live_statistics
from normfold.backends.onnx.norms.decompositions import INSTANCE, LAYER, RMS, Decomposition
from normfold.backends.onnx.reading.constants import ExactTensor, largest
from normfold.backends.onnx.write.commit import bypass, sweep
from normfold.core.algebra import Affine
from normfold.core.premises import (
    HAS_KERNEL,
    KNOWN_RANK,
    KNOWN_SIZES,
    OPSET_HAS_OPERATOR,
    REPRESENTABLE,
    ROOM,
    SAME_SHAPE,
    SINGLE_USE,
    TRAILING_AXES,
)
from normfold.core.views import Groups, Norm, NormKind
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


def obstacle(context: Context, found: Decomposition) -> Refusal | None:
    """Why ``found`` cannot become one operator: the first premise that fails, which may rely on those before it."""
    return _of_form(context, found) or _of_operator(context, found) or _of_shape(context, found)


def _of_form(context: Context, found: Decomposition) -> Refusal | None:
    label, operator = context.label(found.named), found.operator
    shared = found.shared(found.whole[:-1])
    if shared is not None:
        return Refusal(SINGLE_USE, f"{context.label(shared)} inside of it is read by something else, too")
    if any(axis >= 0 for axis in found.axes):
        return Refusal(KNOWN_RANK, f"the rank of the input of {label} is not known; run shape inference on the model")
    if operator != INSTANCE and found.axes != tuple(range(-len(found.axes), 0)):
        because = f"{label} normalises axes {list(found.axes)}, and {operator} the last ones only"
        return Refusal(TRAILING_AXES, because)
    return None


def _of_operator(context: Context, found: Decomposition) -> Refusal | None:
    label, operator, dtype = context.label(found.named), found.operator, found.dtype
    if context.opset < OPSETS[operator]:
        because = f"opset {context.opset} has no {operator}: export with opset {OPSETS[operator]} or newer"
        return Refusal(OPSET_HAS_OPERATOR, because)
    if dtype not in KERNELS[operator]:
        because = f"ONNX Runtime has no kernel for {operator} of {dtype or 'a type that is not known'}"
        return Refusal(HAS_KERNEL, because)
    if dtype == ir.DataType.DOUBLE and float(np.float32(found.epsilon)) != found.epsilon:
        because = f"{operator} keeps epsilon in float32, which cannot hold the {found.epsilon} of {label}"
        return Refusal(REPRESENTABLE, because)
    return None


def _of_shape(context: Context, found: Decomposition) -> Refusal | None:
    label = context.label(found.named)
    if _sizes(context, found) is None:
        return Refusal(KNOWN_SIZES, f"the sizes of the axes that {label} has a scale along are not known")
    if found.grows:
        return Refusal(SAME_SHAPE, f"the statistics of {label} are not known to be broadcast to its input's shape only")
    return None


def written_out(context: Context, found: Decomposition) -> Norm:
    """``found`` as the norm that it is, ready to become one operator."""
    sizes, dtype = _sizes(context, found), found.dtype
    if sizes is None or dtype is None:
        raise TypeError(f"the norm at {found.named.name!r} cannot become one operator")
    tail = Affine.of(np.broadcast_to(found.tail.scale, sizes), np.broadcast_to(found.tail.shift, sizes))
    return replace(
        _core(context, found, found.whole),
        tail=tail,
        holds_shift=found.holds_shift or found.operator == INSTANCE,
        largest=largest(dtype),
        groups=Groups(-len(sizes), sizes[0]) if found.operator == INSTANCE else None,
    )


def spelled_out(context: Context, found: Decomposition, because: Refusal) -> Norm:
    """``found`` without what trails it, where it stays written out ``because`` of something.

    The constants that are applied on the way can go from there, but none can come.
    """
    view = replace(_core(context, found, found.nodes), unemitted=because)
    if found.inner.identity:
        return view
    refusal = _immovable(context, found)
    return replace(view, tail=found.inner, refusals=() if refusal is None else (refusal,))


def _core(context: Context, found: Decomposition, nodes: Sequence[ir.Node]) -> Norm:
    return Norm(
        node=nodes[-1],
        op=found.operator,
        inputs=(found.input,),
        outputs=(nodes[-1].outputs[0],),
        kind=NORM_KINDS[found.operator],
        axes=found.axes if all(axis < 0 for axis in found.axes) else None,
        epsilon=found.epsilon,
        core=live_statistics(repr(context.label(found.named)), found.norm),
        tail=None,
        holds_shift=found.inner.shifts,
        largest=0.0,
        parts=tuple(nodes[:-1]),
    )


def _immovable(context: Context, found: Decomposition) -> Refusal | None:
    """Why the constants that are applied on the way cannot go from there."""
    label, applying = context.label(found.named), found.applying()
    if not applying:
        return Refusal(ROOM, f"the scale of {label} is not applied in one place, so that it cannot go from there")
    shared = found.shared(changing(found, applying))
    if shared is not None:
        return Refusal(SINGLE_USE, f"{context.label(shared)} inside of it is read by something else, too")
    shape, room = context.shape(found.input), found.inner.shape
    if (
        shape is None
        or len(shape) < len(room)
        or any(size not in (1, dim) for size, dim in zip(room, shape[len(shape) - len(room) :], strict=True))
    ):
        return Refusal(SAME_SHAPE, f"the scale of {label} is not known to fit inside its input's shape")
    return None


def changing(found: Decomposition, applying: Sequence[ir.Node]) -> list[ir.Node]:
    """The nodes before the core whose values are others without the constants that ``applying`` apply."""
    changed: list[ir.Node] = []
    for node in found.nodes[:-1]:
        if node in applying or any(value is not None and value.producer() in changed for value in node.inputs):
            changed.append(node)
    return changed


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
    node, x, tail, dtype = found.whole[-1], found.input, view.tail, found.dtype
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


def settle(found: Decomposition, fresh: Callable[[str], str]) -> Decomposition:
    """Take the constants out that ``found`` applies on the way. It stays written out; what they changed is renamed."""
    applying, constants = found.applying(), found.reading.context.constants
    for node in changing(found, applying):
        output = node.outputs[0]
        output.shape, output.name = None, fresh(f"{output.name}_folded")
    kept = []
    for node in applying:
        slot = next(k for k, value in enumerate(node.inputs) if constants.array(value) is None)
        if node.op_type == "Sub" and slot == 1:
            _negate(node)
            kept.append(node)
        else:
            bypass(node, slot, same=False)
    nodes = tuple(node for node in found.nodes if node in kept or node not in applying)
    return replace(found, nodes=nodes, inner=Affine.of())


def _negate(node: ir.Node) -> None:
    """Make ``b - x`` of constants ``b`` the ``-x`` that is left without them."""
    constant, x = node.inputs
    node.op_type = "Neg"
    node.replace_input_with(0, x)
    node.resize_inputs(1)
    if constant is not None:
        sweep(constant)
