"""Fold a scale into the quantised linear operation that consumes its output.

What it does:
    Multiplies the scales of a quantised weight by the scale of its input, and adds what the shift contributes to each
    output to the bias. No code changes, but for those that a negative scale mirrors.

When it holds:
    The input channels of a group have one scale; in a depthwise convolution each is a group of its own. For the shift,
    every output position sums every tap: no padding. The bias is not quantised.

Example:
    ``Mul(x, 0.125) -> MatMul(., DequantizeLinear(q, s))`` becomes ``MatMul(x, DequantizeLinear(q, 0.125 s))``.

Refused when:
    The scale differs between input channels that meet in an output, or the bias is quantised in steps of the present
    input (``same-codes``); the map varies along another axis (``per-input-channel``), has a shift and the operation
    pads (``every-tap``), a constant is not a number (``finite``) or too large (``representable``), groups that share
    scales get different ones (``scale-axis``), the opset has one scale for a whole tensor only (``per-axis-scale``), a
    new scale is too small or too large for its type (``normal-scale``), or a mirrored code is not in its type
    (``code-range``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import islice

from normfold.core.algebra import Affine
from normfold.core.laws import quantized
from normfold.core.laws.quantized import columns_as_rows
from normfold.core.premises import (
    CODE_RANGE,
    EVERY_TAP,
    FINITE,
    NORMAL_SCALE,
    PER_AXIS_SCALE,
    PER_INPUT_CHANNEL,
    REPRESENTABLE,
    SAME_CODES,
    SCALE_AXIS,
)
from normfold.core.rules import fold_affine_into_consumer
from normfold.core.rules.rule import FORWARD, Carry, Rule, Step
from normfold.core.rules.shared import code_range, finite, floating, normal_scale, per_axis_scale, scale_axis
from normfold.core.views import Linear, QuantizedLinear

_FLOATING = fold_affine_into_consumer.RULE


def _per_input_channel(carry: Carry[QuantizedLinear, Affine]) -> str | None:
    return dict(_FLOATING.premises)[PER_INPUT_CHANNEL](floating(carry))


def _every_tap(carry: Carry[QuantizedLinear, Affine]) -> str | None:
    return dict(_FLOATING.premises)[EVERY_TAP](floating(carry))


def _representable(carry: Carry[QuantizedLinear, Affine]) -> str | None:
    return dict(_FLOATING.premises)[REPRESENTABLE](floating(carry))


def _same_codes(carry: Carry[QuantizedLinear, Affine]) -> str | None:
    view = carry.view
    if view.unit is not None and view.linear.bias is not None:
        return f"the bias of {carry.label} is quantised in steps of its present input"
    if next(iter(_steps(carry)), None) is not None:
        return None
    return f"scales that differ between the input channels of {carry.label} would change the codes of its weight"


def _steps(carry: Carry[QuantizedLinear, Affine]) -> Iterable[Step]:
    for step in _FLOATING.steps(floating(carry)):
        weight = columns_as_rows(step.view.weight) if isinstance(step.view, Linear) else None
        if isinstance(step.view, Linear) and weight is not None:
            yield replace(step, view=replace(carry.view, linear=replace(step.view, weight=weight), unit=None))


def _folded(carry: Carry[QuantizedLinear, Affine]) -> QuantizedLinear:
    (step,) = islice(_steps(carry), 1)
    if not isinstance(step.view, QuantizedLinear):
        raise TypeError("a fold into a quantised operation leaves one")
    return step.view


RULE = Rule(
    name="fold_scale_into_quantized_consumer",
    law=quantized.LAW,
    map=Affine,
    directions=(FORWARD,),
    view=QuantizedLinear,
    premises=(
        (FINITE, finite),
        (PER_INPUT_CHANNEL, _per_input_channel),
        (EVERY_TAP, _every_tap),
        (REPRESENTABLE, _representable),
        (SAME_CODES, _same_codes),
        (SCALE_AXIS, lambda carry: scale_axis(_folded(carry), carry.label)),
        (PER_AXIS_SCALE, lambda carry: per_axis_scale(_folded(carry), carry.label)),
        (NORMAL_SCALE, lambda carry: normal_scale(_folded(carry), carry.label)),
        (CODE_RANGE, lambda carry: code_range(_folded(carry), carry.label)),
    ),
    steps=_steps,
)
