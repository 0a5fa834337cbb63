"""Fold an affine map into the quantised linear operation that produces its input.

What it does:
    Multiplies the scales of a quantised weight by the magnitude of the map's scale, mirrors the codes of the channels
    whose scale is negative at their zero point, and puts the shift into the bias. The other codes do not change. A
    quantised bias is rounded to its new steps, with an error of at most half a step; a bias of floating numbers stays
    one, and so does one that was not there before.

When it holds:
    The map varies along the operation's output channels only, and no activation is quantised between the two. A weight
    with one scale gets a scale for each channel. A channel whose scale is zero gets codes that stand for zero.

Example:
    ``Conv(x, DequantizeLinear(q, s)) -> BatchNormalization`` becomes ``Conv(x, DequantizeLinear(q, |a| s), b)``.

Refused when:
    The map varies along another axis (``per-output-channel``), a constant is not a number (``finite``) or too large
    (``representable``), groups that share scales get different ones (``scale-axis``), the opset has one scale for a
    whole tensor only (``per-axis-scale``), a new scale is too small or too large for its type (``normal-scale``), a
    mirrored code is not in its type (``code-range``), or a quantised bias has too many steps (``bias-range``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import islice

from normfold.core.algebra import Affine
from normfold.core.laws import quantized
from normfold.core.premises import (
    BIAS_RANGE,
    CODE_RANGE,
    FINITE,
    NORMAL_SCALE,
    PER_AXIS_SCALE,
    PER_OUTPUT_CHANNEL,
    REPRESENTABLE,
    SCALE_AXIS,
)
from normfold.core.rules import fold_affine_into_producer
from normfold.core.rules.rule import BACKWARD, Carry, Rule, Step
from normfold.core.rules.shared import (
    bias_range,
    code_range,
    finite,
    floating,
    normal_scale,
    per_axis_scale,
    scale_axis,
)
from normfold.core.views import Linear, QuantizedLinear

_FLOATING = fold_affine_into_producer.RULE


def _per_output_channel(carry: Carry[QuantizedLinear, Affine]) -> str | None:
    return dict(_FLOATING.premises)[PER_OUTPUT_CHANNEL](floating(carry))


def _representable(carry: Carry[QuantizedLinear, Affine]) -> str | None:
    return dict(_FLOATING.premises)[REPRESENTABLE](floating(carry))


def _steps(carry: Carry[QuantizedLinear, Affine]) -> Iterable[Step]:
    for step in _FLOATING.steps(floating(carry)):
        if isinstance(step.view, Linear):
            yield replace(step, view=replace(carry.view, linear=step.view))


def _folded(carry: Carry[QuantizedLinear, Affine]) -> QuantizedLinear:
    (step,) = islice(_steps(carry), 1)
    if not isinstance(step.view, QuantizedLinear):
        raise TypeError("a fold into a quantised operation leaves one")
    return step.view


RULE = Rule(
    name="fold_affine_into_quantized_producer",
    law=quantized.LAW,
    map=Affine,
    directions=(BACKWARD,),
    view=QuantizedLinear,
    premises=(
        (FINITE, finite),
        (PER_OUTPUT_CHANNEL, _per_output_channel),
        (REPRESENTABLE, _representable),
        (SCALE_AXIS, lambda carry: scale_axis(_folded(carry), carry.label)),
        (PER_AXIS_SCALE, lambda carry: per_axis_scale(_folded(carry), carry.label)),
        (NORMAL_SCALE, lambda carry: normal_scale(_folded(carry), carry.label)),
        (CODE_RANGE, lambda carry: code_range(_folded(carry), carry.label)),
        (BIAS_RANGE, lambda carry: bias_range(_folded(carry), carry.label)),
    ),
    steps=_steps,
)
