"""Premises and steps that several rules share."""

from __future__ import annotations

import numpy as np

from normfold.core.algebra import Affine, Centring, Map, Offset
from normfold.core.algebra.affine import Array
from normfold.core.algebra.moves import Dim, followed
from normfold.core.algebra.steps import rounded_away
from normfold.core.graph import Graph
from normfold.core.health import TINY
from normfold.core.laws.backward import channel_vector
from normfold.core.laws.blocks import rescale_blocks
from normfold.core.laws.quantized import BIAS_LIMIT, bias_step, mirror, rescale
from normfold.core.plan import Bypass, Plan
from normfold.core.rules.rule import BACKWARD, Carry, Direction, M, Place, Step, Target, V
from normfold.core.views import AffineOp, Blend, BlockLinear, Linear, QuantizedLinear, Value, View

UNSEEN = 1e30
"""No trained weight is as large as this: one need not be read to see that it stays below a far larger number."""
LOST = 2.0**-8
"""Part of a channel that may be lost to numbers too small for their type: eight times what float16 rounds anyway."""


def blended_axis(view: Blend, channels: Centring | Offset, direction: Direction) -> int | None:
    """The axis of ``channels`` beyond ``view``; None where they cannot be followed, or are what it is taken over."""
    there = followed(view.move, channels.axis, channels.size, backward=direction == BACKWARD)
    before = there if direction == BACKWARD else channels.axis
    return None if before is None or before in view.axes else there


def no_maximum(carry: Carry[Blend, Centring] | Carry[Blend, Offset]) -> str | None:
    """The mean of maxima is not the maximum of means."""
    return None if carry.view.averages else f"{carry.label} takes a maximum, of another position for each channel"


def finite(carry: Carry[V, Affine]) -> str | None:
    """Every constant of the map is a number."""
    if carry.map.finite:
        return None
    return "its scale or shift is infinite or not a number (a variance plus epsilon of zero, or bad statistics)"


def held_by(view: AffineOp, affine: Affine) -> bool:
    """Whether ``view`` has room for ``affine`` instead of its own map."""
    if not (view.holds_scale or view.holds_shift):
        return False
    if (affine.scales and not view.holds_scale) or (affine.shifts and not view.holds_shift):
        return False
    if view.axis is None:
        return True
    return all(
        size == 1
        for constant in (affine.scale, affine.shift)
        for k, size in enumerate(constant.shape, -constant.ndim)
        if k != view.axis
    )


def constants_fit(view: AffineOp, affine: Affine, label: str) -> str | None:
    """The constants of ``affine`` fit the type of ``view``."""
    if not all(float(np.abs(c).max(initial=0.0)) <= view.largest for c in (affine.scale, affine.shift)):
        return f"the composed constants of {label} exceed the largest number of their type"
    if not view.step or not held_by(view, affine):
        return None
    scale = np.abs(affine.scale)
    lost = np.abs(rounded_away(scale, view.step))
    return _lost(label, lost, scale, np.abs(affine.shift), view.step)


def linear_fits(view: Linear, label: str) -> str | None:
    """The weight and bias of ``view`` fit the weight's type."""
    weight, bias = view.weight, np.zeros(()) if view.bias is None else np.abs(view.bias)
    in_range = weight.gain <= 1 or weight.gain * UNSEEN <= view.largest or weight.magnitude() <= view.largest
    if not in_range or float(bias.max(initial=0.0)) > view.largest:
        return f"the folded constants of {label} exceed {view.largest:.5g}, the largest number of their type"
    if not view.step or weight.drop >= 1 or weight.drop * LOST > view.step * UNSEEN:
        return None
    lost, size = weight.lost(view.step)
    follows = bias.size == size.size
    return _lost(label, lost, size, bias.reshape(-1) if follows else bias.min(initial=0.0), view.step)


def _lost(label: str, lost: Array, size: Array, beside: Array | float, step: float) -> str | None:
    """Why constants of which so much is ``lost`` are not those that they should be.

    A channel much smaller than the others of its layer, or than the constant ``beside`` it, carries no signal.
    """
    counts = np.maximum(np.maximum(size, beside), TINY * float(size.max(initial=0.0)))
    share = float(np.divide(lost, counts, out=np.zeros_like(counts), where=counts > 0).max(initial=0.0))
    if share <= LOST or np.isnan(share):
        return None
    least = f"{step:.3g}, the least number of their type"
    return f"the folded constants of {label} lose {share:.1%} of a channel below {least}"


def new_weight_in_range(view: Linear) -> bool:
    """Whether a weight that was computed, and its bias, fit the type."""
    bias = 0.0 if view.bias is None else float(np.abs(view.bias).max(initial=0.0))
    return max(bias, view.weight.magnitude()) <= view.largest


def input_columns(carry: Carry[Linear, Affine]) -> tuple[Array, Array] | None:
    """Scale and shift of the map for each input channel; ``None`` where it varies along another axis."""
    view = carry.view
    scale = channel_vector(carry.map.scale, view.in_axes, view.in_sizes)
    shift = channel_vector(carry.map.shift, view.in_axes, view.in_sizes)
    return None if scale is None or shift is None else (scale, shift)


def per_input_channel(carry: Carry[Linear, Affine]) -> str | None:
    """The map varies along the operation's input channels only."""
    if input_columns(carry) is not None:
        return None
    return f"its constants do not follow the {carry.view.weight.in_channels} input channels of {carry.label}"


def floating(carry: Carry[QuantizedLinear, M] | Carry[BlockLinear, M]) -> Carry[Linear, M]:
    """The map at the same operation with the weight that its codes stand for."""
    return Carry(carry.graph, carry.view.linear, carry.direction, carry.map, carry.port)


def rescaled(view: BlockLinear) -> Array | None:
    """The scales of blocks that have taken those pending in the weight; ``None`` where inputs of a block differ."""
    return rescale_blocks(view.scales, view.size, view.linear.weight.rows, view.linear.weight.columns)


def normal_scales_of_blocks(view: BlockLinear, label: str) -> str | None:
    """The new scales of a weight in blocks are normal numbers of their type, or zero."""
    scales, (least, greatest) = rescaled(view), view.normal
    magnitudes = np.zeros(1) if scales is None else np.abs(scales)
    if bool((((magnitudes >= least) & (magnitudes <= greatest)) | (magnitudes == 0)).all()):
        return None
    return f"a new scale of the quantised weight of {label} is not within {least:.3g} and {greatest:.3g}"


def factors_of_codes(view: QuantizedLinear) -> Array | None:
    """What the codes of ``view`` have not taken yet, along their axis: ``[n]``; ``None`` where groups differ."""
    rows = view.linear.weight.rows
    return np.ones_like(view.codes.scale) if rows is None else view.codes.along_axis(rows)


def scale_axis(view: QuantizedLinear, label: str) -> str | None:
    """Groups that share the scales of their codes get the same."""
    if factors_of_codes(view) is not None:
        return None
    return f"the groups of {label} share the scales of its quantised weight, and would get different ones"


def per_axis_scale(view: QuantizedLinear, label: str) -> str | None:
    """Codes with one scale have room for one for each channel, or get one again."""
    codes, scale = view.codes, _scales(view)
    if codes.per_axis or not codes.single or bool((scale == scale[:1]).all()):
        return None
    return f"the weight of {label} has one scale for all channels, and before opset 13 there cannot be one for each"


def normal_scale(view: QuantizedLinear, label: str) -> str | None:
    """The new scales are normal numbers of their type."""
    least, greatest = view.codes.normal
    scale = _scales(view)
    if bool(((scale >= least) & (scale <= greatest)).all()):
        return None
    return f"a new scale of the quantised weight of {label} is not within {least:.3g} and {greatest:.3g}"


def code_range(view: QuantizedLinear, label: str) -> str | None:
    """Every mirrored code is one that the type has."""
    factors, (low, high) = _factors(view), view.codes.limits
    if not bool((factors < 0).any()):
        return None
    mirrored = mirror(view.codes, factors)
    least, greatest = int(mirrored.min(initial=low)), int(mirrored.max(initial=high))
    if (least, greatest) == (low, high):
        return None
    worst = least if least < low else greatest
    return f"a negative scale makes {worst} of a code of {label}, whose type ends at {low} and {high}"


def bias_range(view: QuantizedLinear, label: str) -> str | None:
    """A quantised bias has no more than `BIAS_LIMIT` steps."""
    bias = view.linear.bias
    if view.unit is None or bias is None:
        return None
    step = bias_step(view.unit, _scales(view), view.linear.weight.out_channels)
    largest = float(np.abs(bias.reshape(-1) / step).max(initial=0.0))
    if largest <= BIAS_LIMIT:
        return None
    return f"the quantised bias of {label} is {largest:.3g} steps, more than the {BIAS_LIMIT:.3g} that int32 allows"


def _factors(view: QuantizedLinear) -> Array:
    factors = factors_of_codes(view)
    if factors is None:
        raise ValueError("scale-axis does not hold")
    return factors


def _scales(view: QuantizedLinear) -> Array:
    return rescale(view.codes, _factors(view))


def scale_sign(carry: Carry[V, Affine]) -> str | None:
    """No scale is negative."""
    negative = int((carry.map.scale < 0).sum())
    if not negative:
        return None
    return f"{negative} of {carry.map.scale.size} scales are negative, and {carry.label} does not commute with those"


def fits(affine: Affine, shape: tuple[Dim, ...] | None) -> bool:
    """Whether the constants of ``affine`` broadcast into a value of ``shape`` without enlarging it."""
    wanted = affine.shape
    if shape is None or len(wanted) > len(shape):
        return not wanted and shape is not None
    return all(size in (1, dim) for size, dim in zip(wanted, shape[len(shape) - len(wanted) :], strict=True))


def onward(carry: Carry[V, M], beyond: Map, view: View | None = None) -> Step:
    """The step that sends the map ``beyond`` on to the other side of an operation with one input and one output."""
    value = carry.view.inputs[0] if carry.direction == BACKWARD else carry.view.outputs[0]
    return Step(view=view, onward=(Target(carry.direction, value, beyond),))


def single_use(place: Place[V]) -> str | None:
    """Nothing else reads a value that changes."""
    graph = place.graph
    for value in place.changing:
        readers = graph.consumers(value)
        if len(readers) != 1:
            who = ", ".join(graph.label(node) for node, _ in readers[:3]) or "nothing"
            return f"{graph.label(value)} is read by {who}"
    return None


def is_pointwise(view: Linear) -> bool:
    """Whether a convolution makes each position of one position of its input."""
    window = view.window
    return window is not None and not any(
        (size, stride, begin, end) != (1, 1, 0, 0)
        for size, stride, begin, end in zip(window.kernel, window.strides, window.begins, window.ends, strict=True)
    )


def shrinks(graph: Graph, pool: Blend) -> str | None:
    """No pooled axis grows, and one is known to become smaller."""
    label = graph.label(pool.node)
    before, after = (graph.shape(value) for value in (pool.inputs[0], pool.outputs[0]))
    if before is None or after is None:
        return f"whether {label} makes the value smaller is not known"
    pairs = [(before[axis], after[axis]) for axis in pool.axes]
    known = [(old, new) for old, new in pairs if isinstance(old, int) and isinstance(new, int)]
    if len(known) == len(pairs) and all(new <= old for old, new in known) and any(new < old for old, new in known):
        return None
    return f"{label} is not known to make the value smaller"


def is_private(graph: Graph, value: Value) -> bool:
    """Whether one operation alone reads ``value``."""
    return len(graph.consumers(value)) == 1 and graph.escapes(value) is None


def not_output(place: Place[V]) -> str | None:
    """No value that changes is seen from outside of its graph."""
    escape = next(filter(None, map(place.graph.escapes, place.changing)), None)
    return None if escape is None else escape.because


def same_scope(place: Place[V]) -> str | None:
    """All operations that take part stand in one graph body."""
    node = place.view.node
    other = next((part.node for part in place.parts if not place.graph.same_scope(part.node, node)), None)
    return None if other is None else f"{place.graph.label(other)} stands in another graph body"


def name_kept(place: Place[V]) -> str | None:
    """Where the output of an operation that goes is one of the graph, its input can take that name."""
    graph, (source, *_), (output, *_) = place.graph, place.view.inputs, place.view.outputs
    if graph.escapes(output) is None:
        return None
    producer = graph.producer(source)
    if producer is None or not graph.same_scope(producer, place.view.node):
        return f"without {place.label}, an output of its graph would be a value from outside of it"
    escape = graph.escapes(source)
    return None if escape is None else f"without {place.label}, two outputs would be one value: {escape.because}"


def dropped(place: Place[V], rule: str) -> Plan:
    """The plan that takes out an operation which changes nothing."""
    source = place.view.inputs[0]
    producer = place.graph.producer(source)
    return Plan((Bypass(place.view.node, source),), into=() if producer is None else (producer,), rules=(rule,))
