"""Carry a permutation of channels past a Pad.

What it does:
    Goes on beyond the Pad with the same permutation.

When it holds:
    The Pad leaves the channels alone: it puts the same elements around each.

Example:
    ``Gather([2, 1, 0]) -> Pad -> Conv`` becomes ``Pad -> Conv``.

Refused when:
    The Pad adds channels (``not-padded-axis``).

Law: `normfold.core.laws.permutation`.
"""

from __future__ import annotations

from collections.abc import Iterable

from normfold.core.algebra import Shuffle
from normfold.core.laws import permutation
from normfold.core.premises import NOT_PADDED_AXIS
from normfold.core.rules.rule import FORWARD, Carry, Rule, Step
from normfold.core.rules.shared import onward
from normfold.core.views import Pad


def _not_padded_axis(carry: Carry[Pad, Shuffle]) -> str | None:
    return f"{carry.label} pads the channels that change places" if carry.map.axis in carry.view.axes else None


def _steps(carry: Carry[Pad, Shuffle]) -> Iterable[Step]:
    yield onward(carry, carry.map)


RULE = Rule(
    name="carry_shuffle_through_pad",
    law=permutation.LAW,
    map=Shuffle,
    view=Pad,
    directions=(FORWARD,),
    premises=((NOT_PADDED_AXIS, _not_padded_axis),),
    steps=_steps,
)
