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
    The bias differs inside a group of channels (``same-in-group``), or something else reads the output
    (``single-use``, ``not-output``).

Law: `normfold.core.laws.means`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from normfold.core.algebra import Affine
from normfold.core.algebra.moves import Move, carry
from normfold.core.graph import Graph
from normfold.core.laws.means import vanishes
from normfold.core.plan import Plan, SetView
from normfold.core.rules.rule import Rewrite
from normfold.core.views import Linear, Moving, Norm, Value


def _plans(graph: Graph, norm: Norm) -> Iterable[Plan]:
    if norm.groups is None or norm.parts or norm.refusals or len(norm.inputs) != 1:
        return
    value, moves = norm.inputs[0], list[Move]()
    between: list[Value] = []
    while len(graph.consumers(value)) == 1 and graph.escapes(value) is None:
        between.append(value)
        producer = graph.producer(value)
        view = None if producer is None or not graph.same_scope(producer, norm.node) else graph.view(producer)
        if isinstance(view, Linear) and not view.refusals and view.bias is not None and view.bias.any():
            shift = _carried(Affine.of(shift=view.bias), moves[::-1])
            if shift is not None and vanishes(shift.shift, norm.groups.axis, norm.groups.count):
                without = replace(view, bias=None)
                yield Plan((SetView(without),), changed=tuple(between), into=(view.node,), rules=(RULE.name,))
        if not isinstance(view, Moving) or len(view.moves) != 1:
            return
        value = view.inputs[0]
        moves.append(view.moves[0])


def _carried(affine: Affine, moves: Iterable[Move]) -> Affine | None:
    for move in moves:
        after = carry(move, affine, backward=False)
        if after is None:
            return None
        affine = after
    return affine


RULE = Rewrite(name="drop_bias_before_norm", view=Norm, plans=_plans)
