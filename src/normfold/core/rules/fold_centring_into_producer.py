"""Fold the subtraction of a mean over channels into the linear operation that writes them.

What it does:
    Subtracts from every column of the weight its mean over the output channels, and from the bias its own: what the
    operation writes then has the mean zero.

When it holds:
    The mean is taken over all output channels, and each sees every input: the operation has one group.

Example:
    ``MatMul -> LayerNormalization`` becomes ``MatMul -> LayerNormalization``, which finds nothing to subtract.

Refused when:
    The mean is taken over other elements (``per-output-channel``), the operation has several groups (``one-group``), or
    the new weight does not fit its type (``representable``).

Law: `normfold.core.laws.centring`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from normfold.core.algebra import Centring
from normfold.core.laws import centring
from normfold.core.laws.centring import centre_rows
from normfold.core.premises import ONE_GROUP, PER_OUTPUT_CHANNEL, REPRESENTABLE
from normfold.core.rules.rule import BACKWARD, Carry, Rule, Step
from normfold.core.rules.shared import new_weight_in_range
from normfold.core.views import Linear


def _per_output_channel(carry: Carry[Linear, Centring]) -> str | None:
    view = carry.view
    if view.out_axes == (carry.map.axis,) and view.weight.out_channels == carry.map.size:
        return None
    return f"the mean is not taken over the {view.weight.out_channels} output channels of {carry.label}"


def _one_group(carry: Carry[Linear, Centring]) -> str | None:
    groups = carry.view.weight.groups
    return None if groups == 1 else f"{carry.label} has {groups} groups, and the mean is over all of them"


def _centred(carry: Carry[Linear, Centring]) -> Linear:
    weight, bias = centre_rows(carry.view.weight, carry.view.bias, carry.map)
    return replace(carry.view, weight=weight, bias=bias)


def _representable(carry: Carry[Linear, Centring]) -> str | None:
    if new_weight_in_range(_centred(carry)):
        return None
    return f"the centred constants of {carry.label} exceed {carry.view.largest:.5g}, the largest number of their type"


def _steps(carry: Carry[Linear, Centring]) -> Iterable[Step]:
    yield Step(view=_centred(carry))


RULE = Rule(
    name="fold_centring_into_producer",
    law=centring.LAW,
    map=Centring,
    view=Linear,
    directions=(BACKWARD,),
    premises=((PER_OUTPUT_CHANNEL, _per_output_channel), (ONE_GROUP, _one_group), (REPRESENTABLE, _representable)),
    steps=_steps,
)
