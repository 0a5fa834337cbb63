"""Carry a scale past a product of two values.

What it does:
    ``a * (x * g) = (a x) * g``: towards the producers, one factor takes the scale; towards the consumers, it goes on
    as a scale of the product, or into the other factor, where that is the same whatever the data and can be set.

When it holds:
    There is no shift, and the factor that takes the scale is not broadcast along an axis that it varies along.

Example:
    ``Mul(Conv, Sigmoid) -> BatchNormalization``, a gate before a norm without a shift, becomes ``Mul(Conv, Sigmoid)``.

Refused when:
    There is a shift (``no-shift``), or every factor is broadcast (``same-shape``).
"""

from __future__ import annotations

from collections.abc import Iterable

from normfold.core.algebra import Affine
from normfold.core.laws import sums
from normfold.core.premises import NO_SHIFT, SAME_SHAPE
from normfold.core.rules.rule import BACKWARD, EITHER, FORWARD, Carry, Rule, Step, Target
from normfold.core.rules.shared import fits
from normfold.core.views import Product


def _no_shift(carry: Carry[Product, Affine]) -> str | None:
    if not carry.map.shifts:
        return None
    return f"{carry.label} multiplies by a value, so a shift of one side is not a shift of the other"


def _takers(carry: Carry[Product, Affine]) -> list[int]:
    return [k for k, shape in enumerate(carry.view.shapes) if fits(carry.map, shape)]


def _same_shape(carry: Carry[Product, Affine]) -> str | None:
    if carry.direction == FORWARD or _takers(carry):
        return None
    return f"no factor of {carry.label} is known to have the shape of its constants"


def _steps(carry: Carry[Product, Affine]) -> Iterable[Step]:
    if carry.direction == FORWARD:
        yield Step(onward=(Target(FORWARD, carry.view.outputs[0], carry.map),))
        if 1 - carry.port in carry.view.steady:
            yield Step(view=carry.view)
        return
    for taker in _takers(carry):
        yield Step(onward=(Target(BACKWARD, carry.view.inputs[taker], carry.map),))


RULE = Rule(
    name="carry_scale_through_product",
    law=sums.LAW,
    map=Affine,
    directions=EITHER,
    view=Product,
    premises=((NO_SHIFT, _no_shift), (SAME_SHAPE, _same_shape)),
    steps=_steps,
)
