"""Merge a pointwise convolution into the convolution before or behind it.

What it does:
    ``Conv1x1 -> ConvKxK`` and ``ConvKxK -> Conv1x1`` with nothing in between become one convolution with the product
    of the two kernels.

When it holds:
    Both have as many groups, nothing else reads what is between them, and the product costs no more than the larger
    of the two did: the channels between them are at least as many as those that take their place.

Example:
    ``Conv1x1(16 to 64) -> Conv3x3(64 to 32)`` becomes ``Conv3x3(16 to 32)``.

Refused when:
    The second one pads what the first one shifts (``every-tap``), something else reads the value in between
    (``single-use``, ``not-output``), the two stand in different graph bodies (``same-scope``), or the product does not
    fit its type (``representable``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from normfold.core.algebra import Weight, trim
from normfold.core.algebra.affine import Array
from normfold.core.algebra.weight import Dense
from normfold.core.graph import Graph, maker
from normfold.core.laws import sequence
from normfold.core.laws.sequence import product
from normfold.core.plan import Bypass, Change, Plan, SetView
from normfold.core.premises import EVERY_TAP, NOT_OUTPUT, REPRESENTABLE, SAME_SCOPE, SINGLE_USE
from normfold.core.rules.rule import Place, Rewrite
from normfold.core.rules.shared import is_pointwise, new_weight_in_range, not_output, same_scope, single_use
from normfold.core.views import Linear, Value, View


@dataclass(frozen=True, eq=False)
class Neighbours(Place[Linear]):
    """A convolution and the one before it; ``host`` is the one of them that stays."""

    first: Linear
    host: Linear

    @property
    def parts(self) -> tuple[View, ...]:
        """Both."""
        return (self.first, self.view)

    @property
    def changing(self) -> tuple[Value, ...]:
        """What is between them."""
        return self.first.outputs

    @cached_property
    def merged(self) -> Linear:
        """``host`` with the constants of both."""
        kernel = product(self.view.weight.canonical(), self.first.weight.canonical())
        bias = _bias(self.view, self.first)
        kept = bias if bias.any() or self.host.bias is not None else None
        return replace(
            self.host,
            weight=Weight(Dense(kernel), kernel.shape, "goi"),
            bias=kept,
            in_sizes=self.first.in_sizes,
            out_sizes=self.view.out_sizes,
        )


def _places(graph: Graph, second: Linear) -> Iterable[Neighbours]:
    first = None if second.window is None else maker(graph, second.inputs[0])
    if not isinstance(first, Linear) or first.window is None or first.weight.groups != second.weight.groups:
        return
    # Where nothing says what is between them, a file may hold two that do not fit.
    if first.weight.out_per_group != second.weight.in_per_group:
        return
    if is_pointwise(first) and first.weight.in_per_group <= first.weight.out_per_group:
        yield Neighbours(graph, second, first, host=second)
    elif is_pointwise(second) and second.weight.out_per_group <= second.weight.in_per_group:
        yield Neighbours(graph, second, first, host=first)


def _bias(second: Linear, first: Linear) -> Array:
    shift = np.zeros(()) if first.bias is None else first.bias.reshape(-1)
    through = second.weight.contract(shift if shift.size > 1 else shift.reshape(()))
    own = np.zeros(()) if second.bias is None else second.bias
    return trim(through.reshape(-1, *[1] * len(second.weight.taps)) + own)


def _every_tap(place: Neighbours) -> str | None:
    bias = place.first.bias
    if place.view.whole_taps or place.host is place.first or bias is None or not bias.any():
        return None
    return f"{place.label} pads with zeros, which the bias before it would not reach"


def _representable(place: Neighbours) -> str | None:
    if new_weight_in_range(place.merged):
        return None
    return f"the product of the kernels exceeds {place.host.largest:.5g}, the largest number of their type"


def _plan(place: Neighbours) -> Plan:
    merged, first = place.merged, place.first
    if place.host is first:
        going = Bypass(place.view.node, first.outputs[0], same=True)
        changed = tuple(map(Change, place.changing))
    else:
        going, changed = Bypass(first.node, first.inputs[0]), ()
    return Plan((SetView(merged), going), changed=changed, into=(merged.node,), rules=(RULE.name,))


RULE = Rewrite(
    name="merge_linear_sequence",
    law=sequence.LAW,
    view=Linear,
    places=_places,
    premises=(
        (SINGLE_USE, single_use),
        (SAME_SCOPE, same_scope),
        (NOT_OUTPUT, not_output),
        (EVERY_TAP, _every_tap),
        (REPRESENTABLE, _representable),
    ),
    plan=_plan,
)
