"""LayerNorm to RMSNorm: the mean that the norm subtracts is taken out of what writes its input, once and for all.

What it does:
    ``LN(x) = RMS(P x) * gamma + beta`` with ``P x = x - mean(x)``. Every operation that writes into the residual stream
    gets ``P`` into its constants: linear operations, embedding tables, tables of positions, class tokens. The norms
    that read it then find nothing to subtract. Where they share a stream, all of it is centred, or nothing.

Exact when:
    Everything that writes into the stream can take ``P``, and everything that reads it does not see it: the norms.
    Their bias goes into what reads them, or stays: as an addition, or as that of a norm that has one.

Refused when:
    A depthwise convolution writes into the stream (``one-group``), or another norm does, as in a post-LN transformer
    (``linear-producer``); something else than a norm that subtracts the mean reads it (``linear-consumer``,
    ``same-in-group``), or the caller sees it (``not-output``).

Source: Jiang et al., Pre-RMSNorm and Pre-CRMSNorm Transformers (arXiv 2305.14858), and `normfold.core.laws.centring`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from normfold.core.algebra import Affine, Centring, Offset
from normfold.core.graph import Graph
from normfold.core.origins import Origin
from normfold.core.plan import Change, Insert, Plan, Replace, SetConstant, SetView
from normfold.core.premises import LINEAR_CONSUMER, LINEAR_PRODUCER, ONE_AXIS
from normfold.core.rules import BACKWARD, FORWARD, Carry, Target, carries
from normfold.core.search import Search
from normfold.core.streams import Port, Stream, streams
from normfold.core.views import AffineOp, Node, Norm, Value
from normfold.passes.convert.conversion import Asked, Conversion, Proposal
from normfold.records import Refusal


class _RefusedError(Exception):
    """A part of the plan cannot be made."""

    def __init__(self, *refusals: Refusal) -> None:
        super().__init__()
        self.refusals = refusals


def _prepare(graph: Graph, norms: Sequence[Node]) -> None:
    """Fold scales by channel that write into the streams of ``norms``, such as LayerScale: ``P`` does not pass them."""
    wanted = set(norms)
    ports = [
        port
        for stream in streams(graph)
        if any(port.node in wanted for port in stream.readers)
        for port in stream.writers
    ]
    for node in [port.node for port in ports if port.node is not None]:
        view = graph.view(node)
        if isinstance(view, AffineOp) and view.affine.scales:
            ways = Search(graph).ways_out(node)
            plan = next((way for way in ways if not way.inserts and graph.unable(way) is None), None)
            if plan is not None:
                graph.commit(plan)


def _proposals(graph: Graph, norms: Sequence[Node], _asked: Asked) -> Iterator[Proposal]:
    """A stream at a time, then norms that read no stream one by one."""
    left = dict.fromkeys(norms)
    for node in norms:
        axes = _view(graph, node).axes
        if axes is None or len(axes) != 1:
            del left[node]
            because = f"{graph.label(node)} takes its mean over several axes, and that of one axis can be taken out"
            yield Proposal((node,), refusals=(Refusal(ONE_AXIS, because),))
    for stream in streams(graph):
        mine = tuple(port.node for port in stream.readers if port.node in left)
        for node in mine:
            del left[node]
        if mine:
            yield _judged(graph, mine, stream)
    for node in left:
        yield _judged(graph, (node,), None)


def _judged(graph: Graph, norms: tuple[Node, ...], stream: Stream | None) -> Proposal:
    plan = Plan()
    try:
        for node in norms:
            plan = _without_shift(graph, plan, node)
        plan = _centred(graph, plan, norms[0]) if stream is None else _centred_stream(graph, plan, stream)
        for node in norms:
            plan = _replaced(graph, plan, node)
    except _RefusedError as refused:
        return Proposal(norms, refusals=refused.refusals)
    plan = replace(plan, rules=tuple(dict.fromkeys((*plan.rules, "layer_to_rms"))))
    unable = graph.unable(plan)
    return Proposal(norms, plan) if unable is None else Proposal(norms, refusals=(unable,))


def _view(graph: Graph, node: Node, plan: Plan | None = None) -> Norm:
    view = (None if plan is None else plan.view(node)) or graph.view(node)
    if not isinstance(view, Norm):
        raise TypeError(f"not a norm: {graph.label(node)}")
    return view


def _norm(graph: Graph, plan: Plan, node: Node) -> Norm:
    view = _view(graph, node, plan)
    if view.refusals:
        raise _RefusedError(*view.refusals)
    return view


def _without_shift(graph: Graph, plan: Plan, node: Node) -> Plan:
    """``plan`` with the bias of the norm in what reads it, or else in an addition behind it."""
    view = _norm(graph, plan, node)
    if view.tail is None or not view.tail.shifts:
        return plan
    output, shift = view.outputs[0], Affine.of(shift=view.tail.shift)
    without = plan.with_view(replace(view, tail=Affine.of(view.tail.scale)))
    for way in Search(graph).route(Origin(view, without, Target(FORWARD, output, shift))):
        if not way.inserts and graph.unable(way) is None:
            return way
    behind = without.adding(Insert.of(output, shift))
    # A module tree has no place for an addition, and takes a norm that has a bias of its own.
    return behind if graph.unable(behind) is None else plan


def _centred(graph: Graph, plan: Plan, node: Node) -> Plan:
    """``plan`` with the mean taken out of what makes the input of a norm that reads no stream."""
    view = _norm(graph, plan, node)
    (axis,), value = view.axes or (0,), view.inputs[0]
    shape = graph.shape(value)
    width = None if shape is None else shape[axis]
    if not isinstance(width, int):
        raise _RefusedError(Refusal(LINEAR_PRODUCER, f"the number of channels of {graph.label(value)} is not known"))
    search = Search(graph)
    way = next(search.route(Origin(view, plan, Target(BACKWARD, value, Centring(axis, width)))), None)
    if way is None:
        raise _RefusedError(*search.refusals)
    return way


def _centred_stream(graph: Graph, plan: Plan, stream: Stream) -> Plan:
    """``plan`` with the mean taken out of everything that writes into ``stream``, whose readers must not see that."""
    refusals = [*stream.stops]
    for port in stream.readers:
        refusals += _seen_by(graph, port, stream)
    for port in stream.writers:
        try:
            plan = _centred_writer(graph, plan, port, Centring(stream.values[port.value], stream.width))
        except _RefusedError as refused:
            refusals += refused.refusals
    if refusals:
        raise _RefusedError(*dict.fromkeys(refusals))
    changed = tuple(Change(value, Centring(axis, stream.width)) for value, axis in _made(graph, stream))
    return replace(plan, changed=(*plan.changed, *changed))


def _made(graph: Graph, stream: Stream) -> Iterator[tuple[Value, int]]:
    return ((value, axis) for value, axis in stream.values.items() if graph.producer(value) is not None)


def _seen_by(graph: Graph, port: Port, stream: Stream) -> Iterator[Refusal]:
    """Why the reader at ``port`` would see that the mean is gone."""
    if port.node is None:
        return
    view, offset = graph.view(port.node), Offset(stream.values[port.value], stream.width)
    rules = carries(offset, view, FORWARD)
    if not rules:
        because = f"{graph.label(port.node)} reads the stream, and would see that its mean is gone"
        yield Refusal(LINEAR_CONSUMER, because)
    for rule in rules:
        refusal = rule.refusal(Carry(graph, view, FORWARD, offset, view.inputs.index(port.value)))
        if refusal is not None:
            yield refusal


def _centred_writer(graph: Graph, plan: Plan, port: Port, centring: Centring) -> Plan:
    if port.node is None:
        return _centred_constant(graph, plan, port.value, centring)
    view = plan.view(port.node) or graph.view(port.node)
    carry = Carry(graph, view, BACKWARD, centring, view.outputs.index(port.value))
    rules = carries(centring, view, BACKWARD)
    if not rules:
        because = f"{carry.label} writes into the stream, which cannot take {centring.says}"
        raise _RefusedError(*(view.refusals or (Refusal(LINEAR_PRODUCER, because),)))
    refusal = rules[0].refusal(carry)
    if refusal is not None:
        raise _RefusedError(refusal)
    step = next(iter(rules[0].steps(carry)))
    named = replace(plan, rules=(*plan.rules, *(name for name in (rules[0].name,) if name not in plan.rules)))
    return named if step.view is None else replace(named.with_view(step.view), into=(*named.into, port.node))


def _centred_constant(graph: Graph, plan: Plan, value: Value, centring: Centring) -> Plan:
    stored = graph.constant(value)
    if stored is None:
        because = f"{graph.label(value)}, which comes from outside, goes into the stream"
        raise _RefusedError(Refusal(LINEAR_PRODUCER, because))
    return plan.adding(SetConstant(value, centring.of(stored)))


def _replaced(graph: Graph, plan: Plan, node: Node) -> Plan:
    """``plan`` in which the norm is another one."""
    view = _norm(graph, plan, node)
    view = replace(view, kind="rms", holds_shift=view.tail is not None and view.tail.shifts)
    edits = tuple(edit for edit in plan.edits if not (isinstance(edit, SetView) and edit.view.node == node))
    return replace(plan, edits=(*edits, Replace(view)))


CONVERSION = Conversion(name="layer_to_rms", proposals=_proposals, prepare=_prepare)
