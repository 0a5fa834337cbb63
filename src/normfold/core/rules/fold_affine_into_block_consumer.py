"""Fold an affine map into the product with a weight quantised in blocks that consumes its output.

What it does:
    Multiplies the scales of each block of inputs by the map's scale, and adds what the shift contributes to each output
    to the bias. A product without a bias passes that on to the Add behind it. No code and no zero point changes.

When it holds:
    The map varies along the product's inputs only, its scale from block to block only, and the product reads its input
    as it is.

Example:
    ``Sigmoid -> Mul -> MatMulNBits``, one number for all inputs, becomes ``Sigmoid -> MatMulNBits``.

Refused when:
    The scale differs between inputs of one block (``same-codes``), the map varies along another axis
    (``per-input-channel``), the product rounds its input to integers (``unrounded-input``), a constant is not a number
    (``finite``) or too large (``representable``), or a new scale is too small or too large for its type
    (``normal-scale``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from normfold.core.algebra import Affine
from normfold.core.laws import blocks
from normfold.core.premises import (
    FINITE,
    NORMAL_SCALE,
    PER_INPUT_CHANNEL,
    REPRESENTABLE,
    SAME_CODES,
    UNROUNDED_INPUT,
)
from normfold.core.rules import fold_affine_into_consumer
from normfold.core.rules.rule import FORWARD, Carry, Rule, Step
from normfold.core.rules.shared import finite, floating, normal_scales_of_blocks, rescaled
from normfold.core.views import BlockLinear, Linear

_FLOATING = fold_affine_into_consumer.RULE


def _per_input_channel(carry: Carry[BlockLinear, Affine]) -> str | None:
    return dict(_FLOATING.premises)[PER_INPUT_CHANNEL](floating(carry))


def _representable(carry: Carry[BlockLinear, Affine]) -> str | None:
    return dict(_FLOATING.premises)[REPRESENTABLE](floating(carry))


def _unrounded_input(carry: Carry[BlockLinear, Affine]) -> str | None:
    if not carry.view.rounds_input:
        return None
    return f"{carry.label} rounds its input to integers, and would round another one in another way"


def _same_codes(carry: Carry[BlockLinear, Affine]) -> str | None:
    view = next(iter(_steps(carry))).view
    if isinstance(view, BlockLinear) and rescaled(view) is not None:
        return None
    return f"scales that differ within a block of {carry.view.size} inputs of {carry.label} would change its codes"


def _normal_scale(carry: Carry[BlockLinear, Affine]) -> str | None:
    view = next(iter(_steps(carry))).view
    return normal_scales_of_blocks(view, carry.label) if isinstance(view, BlockLinear) else None


def _steps(carry: Carry[BlockLinear, Affine]) -> Iterable[Step]:
    for step in _FLOATING.steps(floating(carry)):
        if isinstance(step.view, Linear):
            yield replace(step, view=replace(carry.view, linear=step.view))


RULE = Rule(
    name="fold_affine_into_block_consumer",
    law=blocks.LAW,
    map=Affine,
    directions=(FORWARD,),
    view=BlockLinear,
    premises=(
        (FINITE, finite),
        (PER_INPUT_CHANNEL, _per_input_channel),
        (REPRESENTABLE, _representable),
        (UNROUNDED_INPUT, _unrounded_input),
        (SAME_CODES, _same_codes),
        (NORMAL_SCALE, _normal_scale),
    ),
    steps=_steps,
)
