"""Carry an affine map past a pooling operation: average, maximum, mean over axes, resizing.

What it does:
    Goes on beyond the pooling with the same map.

When it holds:
    The map does not vary along the pooled axes. An average passes every scale, and the shift unless zeros of a padding
    are averaged in. A maximum passes shifts and non-negative scales; its padding is minus infinity, so it does no harm.

Example:
    ``Relu -> BatchNormalization -> GlobalAveragePool -> Flatten -> Gemm`` becomes
    ``Relu -> GlobalAveragePool -> Flatten -> Gemm``.

Refused when:
    The map varies along a pooled axis (``not-pooled-axis``), a scale is negative before a maximum
    (``non-negative-scale``), or a shift meets averaged padding (``every-tap``).
"""

from __future__ import annotations

from collections.abc import Iterable

from normfold.core.algebra import Affine
from normfold.core.laws import routes
from normfold.core.laws.routes import carry as carried
from normfold.core.premises import EVERY_TAP, NON_NEGATIVE_SCALE, NOT_POOLED_AXIS
from normfold.core.rules.rule import BACKWARD, EITHER, Carry, Rule, Step
from normfold.core.rules.shared import onward, scale_sign
from normfold.core.views import Blend, Pool, Resample


def _moved(carry: Carry[Blend, Affine]) -> Affine | None:
    """The map beyond the pooling; ``None`` where it varies along a pooled axis."""
    view, affine = carry.view, carry.map
    if carry.direction == BACKWARD:
        before = carried(view.move, affine, backward=True)
        return before if before is not None and _constant_along(before, view.axes) else None
    return carried(view.move, affine, backward=False) if _constant_along(affine, view.axes) else None


def _constant_along(affine: Affine, axes: tuple[int, ...]) -> bool:
    sizes = affine.shape
    return all(-axis > len(sizes) or sizes[axis] == 1 for axis in axes)


def _not_pooled_axis(carry: Carry[Blend, Affine]) -> str | None:
    does = "resamples" if isinstance(carry.view, Resample) else "pools"
    return None if _moved(carry) is not None else f"its constants vary along an axis that {carry.label} {does}"


def _sign(carry: Carry[Blend, Affine]) -> str | None:
    return scale_sign(carry) if isinstance(carry.view, Pool) and carry.view.maximum else None


def _every_tap(carry: Carry[Blend, Affine]) -> str | None:
    if not isinstance(carry.view, Pool) or carry.view.keeps_shift or not carry.map.shifts:
        return None
    return f"{carry.label} averages zeros of its padding in, which the shift would not reach"


def _steps(carry: Carry[Blend, Affine]) -> Iterable[Step]:
    moved = _moved(carry)
    if moved is not None:
        yield onward(carry, moved)


RULE = Rule(
    name="carry_affine_through_pool",
    law=routes.LAW,
    map=Affine,
    directions=EITHER,
    view=Blend,
    premises=((NOT_POOLED_AXIS, _not_pooled_axis), (NON_NEGATIVE_SCALE, _sign), (EVERY_TAP, _every_tap)),
    steps=_steps,
)
