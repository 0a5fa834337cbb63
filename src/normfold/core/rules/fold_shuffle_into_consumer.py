"""Fold a permutation of channels into the linear operations that read it.

What it does:
    A Gather that takes every channel once (RGB from BGR) goes, and the input channels of the weights after it are
    put in the order that they now find.

When it holds:
    The operation sums over the channels. In a grouped convolution no channel leaves its group.

Example:
    ``Gather([2, 1, 0]) -> Conv`` becomes ``Conv``.

Refused when:
    The operation does not sum over the channels (``per-input-channel``), or a channel would leave its group
    (``same-group``).

Law: `normfold.core.laws.permutation`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from normfold.core.algebra import Shuffle, Weight
from normfold.core.laws import permutation
from normfold.core.laws.permutation import permute_columns
from normfold.core.premises import PER_INPUT_CHANNEL, SAME_GROUP
from normfold.core.rules.rule import FORWARD, Carry, Rule, Step
from normfold.core.views import Linear


def _per_input_channel(carry: Carry[Linear, Shuffle]) -> str | None:
    view, shuffle = carry.view, carry.map
    # One matrix for a whole batch has size 1 along it.
    if shuffle.axis in view.in_axes and view.in_sizes[view.in_axes.index(shuffle.axis)] == len(shuffle.order):
        return None
    return f"{carry.label} does not sum over the channels that change places"


def _weight(carry: Carry[Linear, Shuffle]) -> Weight | None:
    view, shuffle = carry.view, carry.map
    return permute_columns(view.weight, view.in_axes.index(shuffle.axis), view.in_sizes, shuffle.order)


def _same_group(carry: Carry[Linear, Shuffle]) -> str | None:
    if _weight(carry) is not None:
        return None
    return f"{carry.label} has {carry.view.weight.groups} groups, and a channel would leave its own"


def _steps(carry: Carry[Linear, Shuffle]) -> Iterable[Step]:
    weight = _weight(carry)
    if weight is not None:
        yield Step(view=replace(carry.view, weight=weight))


RULE = Rule(
    name="fold_shuffle_into_consumer",
    law=permutation.LAW,
    map=Shuffle,
    view=Linear,
    directions=(FORWARD,),
    premises=((PER_INPUT_CHANNEL, _per_input_channel), (SAME_GROUP, _same_group)),
    steps=_steps,
)
