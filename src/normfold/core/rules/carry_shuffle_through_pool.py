"""Carry a permutation of channels past a pooling or a resampling.

What it does:
    Goes on beyond it with the same permutation, along the axis where the channels then are.

When it holds:
    It works on each channel by itself.

Example:
    ``Gather([2, 1, 0]) -> AveragePool -> Conv`` becomes ``AveragePool -> Conv``.

Refused when:
    The channels are pooled, or cannot be followed into the result (``not-pooled-axis``).

Law: `normfold.core.laws.permutation`.
"""

from __future__ import annotations

from collections.abc import Iterable

from normfold.core.algebra import Shuffle
from normfold.core.algebra.moves import followed
from normfold.core.laws import permutation
from normfold.core.premises import NOT_POOLED_AXIS
from normfold.core.rules.rule import FORWARD, Carry, Rule, Step
from normfold.core.rules.shared import onward
from normfold.core.views import Blend


def _beyond(carry: Carry[Blend, Shuffle]) -> Shuffle | None:
    axis, order = carry.map.axis, carry.map.order
    there = None if axis in carry.view.axes else followed(carry.view.move, axis, len(order), backward=False)
    return None if there is None else Shuffle(there, order)


def _not_pooled_axis(carry: Carry[Blend, Shuffle]) -> str | None:
    return None if _beyond(carry) is not None else f"{carry.label} mixes the channels that change places"


def _steps(carry: Carry[Blend, Shuffle]) -> Iterable[Step]:
    beyond = _beyond(carry)
    if beyond is not None:
        yield onward(carry, beyond)


RULE = Rule(
    name="carry_shuffle_through_pool",
    law=permutation.LAW,
    map=Shuffle,
    view=Blend,
    directions=(FORWARD,),
    premises=((NOT_POOLED_AXIS, _not_pooled_axis),),
    steps=_steps,
)
