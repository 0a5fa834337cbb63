"""Carry a scale past a matrix product of two values: the scores of an attention.

What it does:
    ``(a Q) K = a (Q K) = Q (a K)``: towards the producers, one factor takes the scale; towards the consumers, it goes
    on as a scale of the product.

When it holds:
    There is no shift, and the scale does not vary along the axis that the product sums over: one along the rows is that
    of the left factor, one along the columns that of the right one, a single number that of either.

Example:
    ``MatMul(Conv, Sigmoid) -> Div -> Softmax``, scores over a constant, becomes ``MatMul(Conv, Sigmoid) -> Softmax``.

Refused when:
    There is a shift (``no-shift``), the scale varies along the axis that is summed over, or along both of those that
    are not (``not-summed-axis``), or the factor that could take it is broadcast (``same-shape``).
"""

from __future__ import annotations

from collections.abc import Iterable

from normfold.core.algebra import Affine
from normfold.core.laws import bilinear
from normfold.core.laws.bilinear import SUMMED, evened, is_even
from normfold.core.premises import NO_SHIFT, NOT_SUMMED_AXIS, SAME_SHAPE
from normfold.core.rules.rule import BACKWARD, EITHER, FORWARD, Carry, Rule, Step, Target
from normfold.core.rules.shared import fits
from normfold.core.views import MatrixProduct


def _no_shift(carry: Carry[MatrixProduct, Affine]) -> str | None:
    if not carry.map.shifts:
        return None
    return f"{carry.label} multiplies by a value, so a shift of one side is not a shift of the other"


def _of_factor(carry: Carry[MatrixProduct, Affine], factor: int) -> Affine | None:
    """The scale at one factor; ``None`` where it varies along the axis of it that is summed over."""
    scale, axis = carry.map.scale, SUMMED[factor]
    return Affine.of(evened(scale, axis)) if is_even(scale, axis) else None


def _candidates(carry: Carry[MatrixProduct, Affine]) -> list[tuple[int, Affine]]:
    """The factors that the scale may be one of, each with what the scale is there."""
    factors = range(2) if carry.direction == BACKWARD else [carry.port]
    return [(k, scale) for k in factors if (scale := _of_factor(carry, k)) is not None]


def _not_summed_axis(carry: Carry[MatrixProduct, Affine]) -> str | None:
    if _candidates(carry):
        return None
    if carry.direction == FORWARD:
        return f"the scale varies along the axis that {carry.label} sums over"
    return f"the scale varies along the rows and the columns of what {carry.label} makes"


def _takers(carry: Carry[MatrixProduct, Affine]) -> list[tuple[int, Affine]]:
    return [(k, scale) for k, scale in _candidates(carry) if fits(scale, carry.view.shapes[k])]


def _same_shape(carry: Carry[MatrixProduct, Affine]) -> str | None:
    if carry.direction == FORWARD or _takers(carry):
        return None
    return f"no factor of {carry.label} is known to have the shape of its constants"


def _steps(carry: Carry[MatrixProduct, Affine]) -> Iterable[Step]:
    if carry.direction == FORWARD:
        yield from (Step(onward=(Target(FORWARD, carry.view.outputs[0], scale),)) for _, scale in _candidates(carry))
        return
    for factor, scale in _takers(carry):
        yield Step(onward=(Target(BACKWARD, carry.view.inputs[factor], scale),))


RULE = Rule(
    name="carry_scale_through_matrix_product",
    law=bilinear.LAW,
    map=Affine,
    directions=EITHER,
    view=MatrixProduct,
    premises=((NO_SHIFT, _no_shift), (NOT_SUMMED_AXIS, _not_summed_axis), (SAME_SHAPE, _same_shape)),
    steps=_steps,
)
