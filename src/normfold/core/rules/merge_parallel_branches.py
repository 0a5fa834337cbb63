"""Merge convolutions of one input that are added: RepVGG, MobileOne, ``x + conv(x)``.

What it does:
    Takes a term of a sum (a convolution, a norm, an average pool, or the value itself) into another term that is a
    convolution of the same value: the smaller kernel is embedded in the larger one, the kernels and biases are added,
    and one addition goes.

When it holds:
    Both convolutions have the same stride, groups and output size, every tap of the smaller one is a tap of the larger
    one, and nothing else reads them.

Example:
    ``Add(Add(Conv3x3(x), Conv1x1(x)), BatchNormalization(x))`` becomes ``Conv3x3(x)``.

Refused when:
    The terms read different values (``same-input``), have other channels or groups (``same-channels``), look at
    different places (``same-window``), have another reader (``single-use``, ``not-output``) or stand in another graph
    body (``same-scope``); a map on the way has a constant that is not a number (``finite``), does not follow the
    channels (``per-output-channel``) or adds a shift before averaged padding (``every-tap``); or the sum of the kernels
    does not fit its type (``representable``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from normfold.core.algebra import Affine, Permute, Weight, Window, trim
from normfold.core.algebra.affine import Array
from normfold.core.algebra.weight import Dense
from normfold.core.graph import Graph, maker
from normfold.core.laws import parallel
from normfold.core.laws.backward import channel_vector
from normfold.core.laws.parallel import diagonal, embed, spread
from normfold.core.plan import Bypass, Change, Plan, Remove, SetView
from normfold.core.premises import (
    EVERY_TAP,
    FINITE,
    NOT_OUTPUT,
    PER_OUTPUT_CHANNEL,
    REPRESENTABLE,
    SAME_CHANNELS,
    SAME_INPUT,
    SAME_SCOPE,
    SAME_WINDOW,
    SINGLE_USE,
)
from normfold.core.rules.rule import Place, Rewrite
from normfold.core.rules.shared import is_private, new_weight_in_range, not_output, same_scope, single_use
from normfold.core.views import AffineOp, Linear, Moving, Pool, Sum, Value, View


@dataclass(frozen=True, eq=False)
class Term:
    """One summand below a root: its value, its sign, the additions from the root down to the one that reads it."""

    value: Value
    sign: int
    path: tuple[Sum, ...]


@dataclass(frozen=True, eq=False)
class Branches(Place[Sum]):
    """A term that a convolution makes, ``mine``, and another, ``theirs``, which may go into that convolution.

    ``branch`` are the operations that make the other one, last to first, from ``source``: one convolution, or maps and
    at most one average. The addition that reads it goes, and ``rest`` stands in its place.
    """

    host: Linear
    mine: Term
    theirs: Term
    branch: tuple[View, ...]
    source: Value
    rest: Value
    rest_sign: int

    @property
    def parts(self) -> tuple[View, ...]:
        """The operations that make both terms."""
        return (self.view, self.host, *self.branch)

    @property
    def changing(self) -> tuple[Value, ...]:
        """What they make."""
        return tuple(view.outputs[0] for view in (self.host, *self.branch))

    @cached_property
    def guest(self) -> Linear | None:
        """The convolution that makes the other term, where one does."""
        view = self.branch[0] if self.branch else None
        return view if isinstance(view, Linear) else None

    @property
    def pool(self) -> Pool | None:
        """The average on the way of the other term, where there is one."""
        return next((view for view in self.branch if isinstance(view, Pool)), None)

    @cached_property
    def affine(self) -> Affine:
        """The map on the way of the other term."""
        whole = Affine.of()
        for view in self.branch:
            whole = whole.after(view.affine) if isinstance(view, AffineOp) else whole
        return whole

    @cached_property
    def channels(self) -> tuple[Array, Array] | None:
        """Scale and shift of that map for each channel; ``None`` where it varies along another axis."""
        view = self.host
        scale = channel_vector(self.affine.scale, view.out_axes, view.out_sizes)
        shift = channel_vector(self.affine.shift, view.out_axes, view.out_sizes)
        return None if scale is None or shift is None else (scale, shift)

    @property
    def window(self) -> Window:
        """Where the other term looks."""
        looking = self.guest or self.pool
        if looking is not None and looking.window is not None:
            return looking.window
        rank = len(self.host.weight.taps)
        return Window(*((number,) * rank for number in (1, 1, 1, 0, 0)))

    @cached_property
    def placement(self) -> list[list[int]] | None:
        """Which taps of the convolution those of the other term are; ``None`` where one is none of them."""
        return None if self.host.window is None else self.host.window.placement(self.window)

    @cached_property
    def merged(self) -> Linear:
        """The convolution with both kernels and both biases."""
        host, sign = self.host, self.mine.sign * self.theirs.sign
        if self.placement is None:
            raise ValueError("same-window does not hold")
        kernel, bias = self._kernel()
        total = host.weight.canonical() + sign * embed(kernel, self.placement, host.weight.taps)
        before = np.zeros(()) if host.bias is None else host.bias
        joined = trim(before + sign * bias)
        weight = Weight(Dense(total), host.weight.split, "goi")
        view = replace(host, weight=weight, bias=joined if joined.any() or host.bias is not None else None)
        if self.rest_sign == 1:
            return view
        return replace(view, weight=weight.scale_rows(-np.ones(())), bias=None if view.bias is None else -view.bias)

    def _kernel(self) -> tuple[Array, Array]:
        """The other term as a kernel over the input of the convolution, and its bias."""
        if self.guest is not None:
            return self.guest.weight.canonical(), np.zeros(()) if self.guest.bias is None else self.guest.bias
        if self.channels is None:
            raise ValueError("per-output-channel does not hold")
        weight = self.host.weight
        taps = diagonal(self.channels[0], weight.groups, weight.out_channels)
        return spread(taps, self.window.kernel), self.affine.shift


def _places(graph: Graph, root: Sum) -> Iterable[Branches]:
    if _is_inner(graph, root):
        return
    terms = list(_terms(graph, root))
    # The addition of the other one has one more term, which can stand in its place.
    others = [term for term in terms if len(term.path[-1].inputs) == 2]
    for mine in terms:
        host = maker(graph, mine.value)
        if isinstance(host, Linear) and host.window is not None:
            for theirs in others:
                if theirs is not mine:
                    yield from _pair(graph, root, host, mine, theirs)


def _pair(graph: Graph, root: Sum, host: Linear, mine: Term, theirs: Term) -> Iterable[Branches]:
    """Both terms, where what is added to the other one can stand in its place."""
    holder = theirs.path[-1]
    other = 1 - holder.inputs.index(theirs.value)
    rest, sign = holder.inputs[other], holder.signs[other]
    # What is subtracted cannot stand for the sum, unless it is the convolution itself, which then turns its sign.
    if sign == 1 or rest is host.outputs[0]:
        yield Branches(graph, root, host, mine, theirs, *_branch(graph, theirs.value, host.inputs[0]), rest, sign)


def _terms(graph: Graph, root: Sum) -> Iterator[Term]:
    pending = _summands(Term(root.outputs[0], 1, ()), root)
    while pending:
        term = pending.pop()
        inner = maker(graph, term.value)
        if isinstance(inner, Sum) and is_private(graph, term.value):
            pending += _summands(term, inner)
        else:
            yield term


def _summands(at: Term, view: Sum) -> list[Term]:
    """The terms of ``view``, which makes ``at``, last to first."""
    terms = [Term(v, at.sign * sign, (*at.path, view)) for v, sign in zip(view.inputs, view.signs, strict=True)]
    return terms[::-1]


def _is_inner(graph: Graph, root: Sum) -> bool:
    """Whether another sum will flatten ``root``."""
    output = root.outputs[0]
    return is_private(graph, output) and isinstance(graph.view(graph.consumers(output)[0][0]), Sum)


def _branch(graph: Graph, value: Value, start: Value) -> tuple[tuple[View, ...], Value]:
    """The operations that make ``value``, last to first, and what they read: ``start``, if they lead there."""
    views: list[View] = []
    while value is not start:
        view = maker(graph, value)
        if isinstance(view, Linear) and view.window is not None and not views:
            return (view,), view.inputs[0]
        if view is None or not _is_diagonal(view) or (isinstance(view, Pool) and any(map(_is_pool, views))):
            break
        views.append(view)
        value = view.inputs[0]
    return tuple(views), value


def _is_diagonal(view: View) -> bool:
    """Whether an operation maps or averages each channel by itself, or does nothing."""
    if isinstance(view, Pool):
        return view.window is not None
    return isinstance(view, AffineOp) or (isinstance(view, Moving) and view.moves == (Permute(),))


def _is_pool(view: View) -> bool:
    return isinstance(view, Pool)


def _same_input(place: Branches) -> str | None:
    if place.source is place.host.inputs[0]:
        return None
    graph, label = place.graph, place.graph.label(place.host.node)
    return f"{label}, to which it is added, does not read {graph.label(place.source)}"


def _same_channels(place: Branches) -> str | None:
    weight, guest = place.host.weight, place.guest
    same = weight.in_channels == weight.out_channels if guest is None else guest.weight.split[:3] == weight.split[:3]
    return (
        None if same else f"{place.graph.label(place.host.node)} has other channels or groups than what is added to it"
    )


def _finite(place: Branches) -> str | None:
    return None if place.affine.finite else "a constant of what is added is infinite or not a number"


def _per_output_channel(place: Branches) -> str | None:
    if place.channels is not None:
        return None
    return f"its constants do not follow the channels of {place.graph.label(place.host.node)}"


def _every_tap(place: Branches) -> str | None:
    pool = place.pool
    if pool is None or pool.keeps_shift:
        return None
    before = place.branch[place.branch.index(pool) :]
    if not any(isinstance(view, AffineOp) and view.affine.shifts for view in before):
        return None
    return f"{place.graph.label(pool.node)} averages zeros of its padding in, which the shift before it would not reach"


def _same_window(place: Branches) -> str | None:
    if place.placement is not None:
        return None
    return f"{place.graph.label(place.host.node)} looks at other places than what is added to it"


def _representable(place: Branches) -> str | None:
    if new_weight_in_range(place.merged):
        return None
    return f"the sum of the kernels exceeds {place.host.largest:.5g}, the largest number of their type"


def _plan(place: Branches) -> Plan:
    mine, theirs, host = place.mine, place.theirs, place.host
    holder = theirs.path[-1]
    shared = sum(a is b for a, b in zip(mine.path, theirs.path, strict=False))
    touched = (sums for sums in (*mine.path[shared:], *theirs.path[shared:]) if sums is not holder)
    return Plan(
        (
            SetView(place.merged),
            Bypass(holder.node, place.rest, same=holder in mine.path),
            *(Remove(view.node) for view in place.branch),
        ),
        changed=tuple(Change(view.outputs[0]) for view in (host, *touched)),
        into=(host.node,),
        rules=(RULE.name,),
    )


RULE = Rewrite(
    name="merge_parallel_branches",
    law=parallel.LAW,
    view=Sum,
    places=_places,
    premises=(
        (SAME_INPUT, _same_input),
        (SINGLE_USE, single_use),
        (SAME_SCOPE, same_scope),
        (NOT_OUTPUT, not_output),
        (SAME_CHANNELS, _same_channels),
        (FINITE, _finite),
        (PER_OUTPUT_CHANNEL, _per_output_channel),
        (EVERY_TAP, _every_tap),
        (SAME_WINDOW, _same_window),
        (REPRESENTABLE, _representable),
    ),
    plan=_plan,
)
