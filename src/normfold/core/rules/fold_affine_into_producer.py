"""Fold an affine map into the linear operation that produces its input.

What it does:
    Multiplies the output channels of the weight of a Conv, ConvTranspose, Gemm or MatMul by the map's scale and
    puts the shift into its bias. The norm is gone.

When it holds:
    The map varies along the operation's output channels only. Padding, stride, dilation and groups do not matter.
    Where the operation has no place for a bias (MatMul), the shift stays behind as one Add.

Example:
    ``Conv -> BatchNormalization`` becomes ``Conv``.

Refused when:
    The map varies along another axis (``per-output-channel``), a constant of the map is not a number (``finite``),
    or the new weight does not fit the weight's type (``representable``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from normfold.core.algebra import Affine, trim
from normfold.core.laws import backward
from normfold.core.laws.backward import channel_vector, push_into_rows
from normfold.core.plan import Insert
from normfold.core.premises import FINITE, PER_OUTPUT_CHANNEL, REPRESENTABLE
from normfold.core.rules.rule import BACKWARD, Carry, Rule, Step
from normfold.core.rules.shared import finite, linear_fits
from normfold.core.views import Linear


def _per_output_channel(carry: Carry[Linear, Affine]) -> str | None:
    view = carry.view
    vectors = (channel_vector(c, view.out_axes, view.out_sizes) for c in (carry.map.scale, carry.map.shift))
    if all(vector is not None for vector in vectors):
        return None
    return f"its constants do not follow the {view.weight.out_channels} output channels of {carry.label}"


def _folded(carry: Carry[Linear, Affine]) -> Linear:
    view = carry.view
    rows = channel_vector(carry.map.scale, view.out_axes, view.out_sizes)
    if rows is None:
        raise ValueError("per-output-channel does not hold")
    weight, bias = push_into_rows(view.weight, view.bias, carry.map, rows)
    return replace(view, weight=weight, bias=bias)


def _representable(carry: Carry[Linear, Affine]) -> str | None:
    return linear_fits(_folded(carry), carry.label)


def _steps(carry: Carry[Linear, Affine]) -> Iterable[Step]:
    if carry.view.bias_slot or not carry.map.shifts:
        yield Step(view=_folded(carry))
        return
    scaled = _folded(replace(carry, map=carry.map.only_scale()))
    shift = Affine.of(shift=trim(carry.map.shift))
    yield Step(view=scaled, inserted=(Insert.of(carry.view.outputs[0], shift),))


RULE = Rule(
    name="fold_affine_into_producer",
    law=backward.LAW,
    map=Affine,
    directions=(BACKWARD,),
    view=Linear,
    premises=(
        (FINITE, finite),
        (PER_OUTPUT_CHANNEL, _per_output_channel),
        (REPRESENTABLE, _representable),
    ),
    steps=_steps,
)
