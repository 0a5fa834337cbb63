"""Drop a bias that the norm after it subtracts again.

What it does:
    The bias of a Conv, ConvTranspose, Gemm or MatMul before an InstanceNorm or GroupNorm goes: the norm subtracts the
    mean of each group of channels, and the bias with it. The norm itself stays as it is, and so does its decision.

When it holds:
    The bias is the same for all channels that share a mean, as it always is before an InstanceNorm. Nothing but the
    norm reads the operation's output, directly or past operations that only move elements.

Example:
    ``Conv(x, w, b) -> InstanceNormalization`` becomes ``Conv(x, w) -> InstanceNormalization``.

Refused when:
    The bias differs inside a group of channels (``same-in-group``) or cannot be followed to the norm
    (``static-reshape``), something else reads the output (``single-use``, ``not-output``), or the two stand in
    different graph bodies (``same-scope``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

from normfold.core.algebra import Affine
from normfold.core.algebra.moves import carry
from normfold.core.graph import Graph, maker
from normfold.core.laws import means
from normfold.core.laws.means import vanishes
from normfold.core.plan import Change, Plan, SetView
from normfold.core.premises import NOT_OUTPUT, SAME_IN_GROUP, SAME_SCOPE, SINGLE_USE, STATIC_RESHAPE
from normfold.core.rules.rule import Place, Rewrite
from normfold.core.rules.shared import not_output, same_scope, single_use
from normfold.core.views import Linear, Moving, Norm, Value, View


@dataclass(frozen=True, eq=False)
class Biased(Place[Norm]):
    """A linear operation with a bias, and the moves from it to the norm, first to last."""

    linear: Linear
    moves: tuple[Moving, ...]

    @property
    def parts(self) -> tuple[View, ...]:
        """All of them."""
        return (self.view, *self.moves, self.linear)

    @property
    def changing(self) -> tuple[Value, ...]:
        """What each of them but the norm makes."""
        return tuple(view.outputs[0] for view in (self.linear, *self.moves))

    @cached_property
    def shifts(self) -> tuple[Affine | None, ...]:
        """The bias in each value on the way; ``None`` where its channels cannot be followed."""
        affine: Affine | None = Affine.of(shift=0.0 if self.linear.bias is None else self.linear.bias)
        found = [affine]
        for view in self.moves:
            affine = None if affine is None else carry(view.moves[0], affine, backward=False)
            found.append(affine)
        return tuple(found)

    @property
    def shift(self) -> Affine | None:
        """The bias as it reaches the norm."""
        return self.shifts[-1]


def _places(graph: Graph, norm: Norm) -> Iterable[Biased]:
    if norm.groups is None or norm.parts:
        return
    moves: list[Moving] = []
    view = maker(graph, norm.inputs[0])
    while isinstance(view, Moving) and len(view.moves) == 1:
        moves.append(view)
        view = maker(graph, view.inputs[0])
    if isinstance(view, Linear) and view.bias is not None and view.bias.any():
        yield Biased(graph, norm, view, tuple(reversed(moves)))


def _static_reshape(place: Biased) -> str | None:
    if place.shift is not None:
        return None
    return f"the bias of {place.graph.label(place.linear.node)} cannot be followed to {place.label}"


def _same_in_group(place: Biased) -> str | None:
    shift, groups = place.shift, place.view.groups
    if shift is not None and groups is not None and vanishes(shift.shift, groups.axis, groups.count):
        return None
    return f"the bias of {place.graph.label(place.linear.node)} differs between channels that share a mean"


def _plan(place: Biased) -> Plan:
    without = replace(place.linear, bias=None)
    changed = (Change(value, shift, undone=True) for value, shift in zip(place.changing, place.shifts, strict=True))
    return Plan((SetView(without),), changed=tuple(changed), into=(without.node,), rules=(RULE.name,))


RULE = Rewrite(
    name="drop_bias_before_norm",
    law=means.LAW,
    view=Norm,
    places=_places,
    premises=(
        (SINGLE_USE, single_use),
        (SAME_SCOPE, same_scope),
        (NOT_OUTPUT, not_output),
        (STATIC_RESHAPE, _static_reshape),
        (SAME_IN_GROUP, _same_in_group),
    ),
    plan=_plan,
)
