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
    The terms read different values (``same-input``), look at different places (``same-window``), or have another reader
    (``single-use``).

Law: `normfold.core.laws.parallel`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from normfold.core.algebra import Affine, Permute, Weight, Window, trim
from normfold.core.algebra.affine import Array
from normfold.core.algebra.weight import Dense
from normfold.core.graph import Graph
from normfold.core.laws.backward import channel_vector
from normfold.core.laws.parallel import diagonal, embed, spread
from normfold.core.plan import Bypass, Plan, Remove, SetView
from normfold.core.rules.rule import Rewrite
from normfold.core.views import AffineOp, Linear, Moving, Node, Pool, Sum, Value, View


@dataclass(frozen=True, eq=False)
class Term:
    """One summand below a root: its value, its sign, the additions from the root down to the one that reads it."""

    value: Value
    sign: int
    path: tuple[Sum, ...]


def _terms(graph: Graph, root: Sum) -> Iterator[Term]:
    pending = _summands(Term(root.outputs[0], 1, ()), root)
    while pending:
        term = pending.pop()
        producer = graph.producer(term.value)
        inner = None if producer is None else graph.view(producer)
        if isinstance(inner, Sum) and _private(graph, term.value):
            pending += _summands(term, inner)
        else:
            yield term


def _summands(at: Term, view: Sum) -> list[Term]:
    """The terms of ``view``, which makes ``at``, last to first."""
    terms = [Term(v, at.sign * sign, (*at.path, view)) for v, sign in zip(view.inputs, view.signs, strict=True)]
    return terms[::-1]


def _private(graph: Graph, value: Value) -> bool:
    """Whether one operation alone reads ``value``."""
    return len(graph.consumers(value)) == 1 and graph.escapes(value) is None


def _is_inner(graph: Graph, root: Sum) -> bool:
    """Whether another sum will flatten ``root``."""
    output = root.outputs[0]
    if not _private(graph, output):
        return False
    return isinstance(graph.view(graph.consumers(output)[0][0]), Sum)


def _linear(graph: Graph, term: Term) -> Linear | None:
    """The convolution that makes ``term`` and nothing else."""
    producer = graph.producer(term.value)
    view = None if producer is None else graph.view(producer)
    if not isinstance(view, Linear) or view.window is None or view.refusals or not _private(graph, term.value):
        return None
    return view if graph.same_scope(view.node, term.path[-1].node) else None


Guest = tuple[Array, Window, Array, tuple[Node, ...]]
"""A term as a kernel over the host's input, its window and its bias, and the nodes that go with it."""


def _guest(graph: Graph, term: Term, host: Linear) -> Guest | None:
    if host.window is None:
        return None
    producer = graph.producer(term.value)
    view = None if producer is None else graph.view(producer)
    if isinstance(view, Linear) and term.value is not host.inputs[0]:
        if view.window is None or view.refusals or view.inputs != host.inputs or not _private(graph, term.value):
            return None
        bias = np.zeros(()) if view.bias is None else view.bias
        return (view.weight.canonical(), view.window, bias, (view.node,)) if _same_channels(view, host) else None
    return _diagonal(graph, term.value, host, Window(*((n,) * len(host.window.kernel) for n in (1, 1, 1, 0, 0))))


def _same_channels(view: View, host: Linear) -> bool:
    return isinstance(view, Linear) and view.weight.split[:3] == host.weight.split[:3]


def _diagonal(graph: Graph, value: Value, host: Linear, window: Window) -> Guest | None:
    """``value`` as a kernel, where it is an affine map or an average of the host's input, channel by channel."""
    affine, pool, nodes = Affine.of(), None, []
    while value is not host.inputs[0]:
        producer = graph.producer(value)
        view = None if producer is None else graph.view(producer)
        if view is None or view.refusals or not _private(graph, value):
            return None
        if isinstance(view, AffineOp) and (pool is None or pool.keeps_shift or not view.affine.shifts):
            affine = affine.after(view.affine)
        elif isinstance(view, Pool) and view.window is not None and pool is None:
            pool, window = view, view.window
        elif not (isinstance(view, Moving) and view.moves == (Permute(),)):
            return None
        nodes.append(view.node)
        value = view.inputs[0]
    weight = host.weight
    scale = channel_vector(affine.scale, host.out_axes, host.out_sizes)
    shift = channel_vector(affine.shift, host.out_axes, host.out_sizes)
    if scale is None or shift is None or not affine.finite or weight.in_channels != weight.out_channels:
        return None
    return (
        spread(diagonal(scale, weight.groups, weight.out_channels), window.kernel),
        window,
        affine.shift,
        tuple(nodes),
    )


def _merged(host: Linear, guest: Guest, sign: int) -> Linear | None:
    """``host`` with the guest's kernel embedded in its own; ``None`` where the windows differ."""
    kernel, window, bias, _ = guest
    placement = None if host.window is None else host.window.placement(window)
    if placement is None:
        return None
    total = host.weight.canonical() + sign * embed(kernel, placement, host.weight.taps)
    if float(np.abs(total).max(initial=0.0)) > host.largest:
        return None
    weight = Weight(Dense(total), host.weight.split, "goi")
    before = np.zeros(()) if host.bias is None else host.bias
    joined = trim(before + sign * bias)
    return replace(host, weight=weight, bias=joined if joined.any() or host.bias is not None else None)


def _plan(graph: Graph, host: Linear, mine: Term, theirs: Term) -> Plan | None:
    """The plan that takes ``theirs`` into ``host``, the convolution of ``mine``."""
    guest = _guest(graph, theirs, host)
    view = None if guest is None else _merged(host, guest, mine.sign * theirs.sign)
    holder = theirs.path[-1]
    place = holder.inputs.index(theirs.value)
    rest = [(v, s) for k, (v, s) in enumerate(zip(holder.inputs, holder.signs, strict=True)) if k != place]
    if guest is None or view is None or len(rest) != 1:
        return None
    if rest[0][1] != 1:
        if rest[0][0] is not host.outputs[0]:
            return None
        view = replace(
            view, weight=view.weight.scale_rows(-np.ones(())), bias=None if view.bias is None else -view.bias
        )
    shared = sum(a is b for a, b in zip(mine.path, theirs.path, strict=False))
    touched = [*mine.path[shared:], *theirs.path[shared:]]
    values = [host.outputs[0], *(s.outputs[0] for s in touched if s is not holder)]
    going = Bypass(holder.node, rest[0][0], same=holder in mine.path)
    return Plan(
        (SetView(view), going, *map(Remove, guest[3])),
        changed=tuple(values),
        into=(host.node,),
        rules=(RULE.name,),
    )


def _plans(graph: Graph, root: Sum) -> Iterable[Plan]:
    if _is_inner(graph, root):
        return
    terms = list(_terms(graph, root))
    for mine in terms:
        host = _linear(graph, mine)
        for theirs in terms if host is not None else ():
            plan = None if host is None or theirs is mine else _plan(graph, host, mine, theirs)
            if plan is not None:
                yield plan


RULE = Rewrite(name="merge_parallel_branches", view=Sum, plans=_plans)
