"""Carry an affine map past a Concat.

What it does:
    Towards the producers, every part takes its own slice of the map. Towards the consumers, the map of one part goes on
    as a map of the whole that leaves the other parts as they are.

When it holds:
    Every part that the map changes can take it, or every consumer of the whole can.

Example:
    ``Concat(Conv, Conv) -> BatchNormalization`` becomes ``Concat(Conv, Conv)``.

Refused when:
    The sizes of the parts are not known (``known-parts``), or a part or a consumer refuses.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from normfold.core.algebra import Affine
from normfold.core.algebra.moves import MOST, Take, carry
from normfold.core.laws import routes
from normfold.core.premises import KNOWN_PARTS
from normfold.core.rules.rule import BACKWARD, EITHER, FORWARD, Carry, Rule, Step, Target
from normfold.core.views import Concat


def _known_parts(carry: Carry[Concat, Affine]) -> str | None:
    if not all(carry.view.sizes):
        return f"the sizes of the parts of {carry.label} are not known"
    return None if sum(carry.view.sizes) <= MOST else f"{carry.label} states more channels than any constant has"


def _parts(view: Concat) -> list[Take]:
    total, start, parts = sum(view.sizes), 0, []
    for size in view.sizes:
        parts.append(Take(view.axis, total, range(start, start + size)))
        start += size
    return parts


def _slice(part: Take, affine: Affine) -> Affine | None:
    return carry(part, affine, backward=False)


def _steps(carry_: Carry[Concat, Affine]) -> Iterable[Step]:
    view, affine = carry_.view, carry_.map
    parts = _parts(view)
    if carry_.direction == FORWARD:
        whole = carry(parts[carry_.port], _along(affine, view.axis, view.sizes[carry_.port]), backward=True)
        yield Step(onward=() if whole is None else (Target(FORWARD, view.outputs[0], whole),))
        return
    slices = [(value, _slice(part, affine)) for value, part in zip(view.inputs, parts, strict=True)]
    yield Step(
        onward=tuple(
            Target(BACKWARD, value, part) for value, part in slices if part is not None and (part.scales or part.shifts)
        )
    )


def _along(affine: Affine, axis: int, size: int) -> Affine:
    """``affine`` with its constants written out along ``axis``, so that other parts can differ."""
    full = [1] * -axis
    full[axis] = size
    return Affine(affine.scale + np.zeros(full), affine.shift + np.zeros(full))


RULE = Rule(
    name="carry_affine_through_concat",
    law=routes.LAW,
    map=Affine,
    directions=EITHER,
    view=Concat,
    premises=((KNOWN_PARTS, _known_parts),),
    steps=_steps,
)
