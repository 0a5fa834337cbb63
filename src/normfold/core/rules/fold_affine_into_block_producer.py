"""Fold an affine map into the product with a weight quantised in blocks that produces its input.

What it does:
    Multiplies the scales of all blocks of an output by the map's scale, of either sign, and puts the shift into the
    bias. No code and no zero point changes.

When it holds:
    The map varies along the product's outputs only. Where the product has no bias, the shift stays behind as one Add.

Example:
    ``MatMulNBits -> Mul -> Add``, of a product that has a bias, becomes ``MatMulNBits``.

Refused when:
    The map varies along another axis (``per-output-channel``), a constant is not a number (``finite``) or too large
    (``representable``), or a new scale is too small or too large for its type (``normal-scale``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from normfold.core.algebra import Affine
from normfold.core.laws import blocks
from normfold.core.premises import FINITE, NORMAL_SCALE, PER_OUTPUT_CHANNEL, REPRESENTABLE
from normfold.core.rules import fold_affine_into_producer
from normfold.core.rules.rule import BACKWARD, Carry, Rule, Step
from normfold.core.rules.shared import finite, floating, normal_scales_of_blocks
from normfold.core.views import BlockLinear, Linear

_FLOATING = fold_affine_into_producer.RULE


def _per_output_channel(carry: Carry[BlockLinear, Affine]) -> str | None:
    return dict(_FLOATING.premises)[PER_OUTPUT_CHANNEL](floating(carry))


def _representable(carry: Carry[BlockLinear, Affine]) -> str | None:
    return dict(_FLOATING.premises)[REPRESENTABLE](floating(carry))


def _normal_scale(carry: Carry[BlockLinear, Affine]) -> str | None:
    said = (
        normal_scales_of_blocks(step.view, carry.label) for step in _steps(carry) if isinstance(step.view, BlockLinear)
    )
    return next(said, None)


def _steps(carry: Carry[BlockLinear, Affine]) -> Iterable[Step]:
    for step in _FLOATING.steps(floating(carry)):
        if isinstance(step.view, Linear):
            yield replace(step, view=replace(carry.view, linear=step.view))


RULE = Rule(
    name="fold_affine_into_block_producer",
    law=blocks.LAW,
    map=Affine,
    directions=(BACKWARD,),
    view=BlockLinear,
    premises=(
        (FINITE, finite),
        (PER_OUTPUT_CHANNEL, _per_output_channel),
        (REPRESENTABLE, _representable),
        (NORMAL_SCALE, _normal_scale),
    ),
    steps=_steps,
)
