"""Fold an addition of constants into the bias of the operation before it.

What it does:
    A Conv, ConvTranspose or Gemm takes the constants of the Add or Sub after it into its bias. An addition alone is no
    norm, so no decision speaks of it.

When it holds:
    The constants vary along the operation's output channels only, and nothing else reads its output. A MatMul has no
    bias: the addition after it is its bias already.

Example:
    ``Conv -> Add`` becomes ``Conv``.

Refused when:
    The constants vary along another axis (``per-output-channel``), one of them is not a number (``finite``), the new
    bias does not fit the type (``representable``), or something else reads the output (``single-use``, ``not-output``).

Law: `normfold.core.laws.backward`.
"""

from __future__ import annotations

from collections.abc import Iterable

from normfold.core.graph import Graph
from normfold.core.plan import Bypass, Plan, SetView
from normfold.core.rules import fold_affine_into_producer
from normfold.core.rules.rule import BACKWARD, Carry, Rewrite
from normfold.core.views import AffineOp, Linear


def _plans(graph: Graph, view: AffineOp) -> Iterable[Plan]:
    if view.refusals or view.holds_scale or view.affine.scales or not view.affine.shifts:
        return
    value = view.inputs[0]
    producer = graph.producer(value)
    if producer is None or not graph.same_scope(producer, view.node) or graph.escapes(value) is not None:
        return
    linear = graph.view(producer)
    if not isinstance(linear, Linear) or linear.refusals or linear.op == "MatMul" or len(graph.consumers(value)) != 1:
        return
    carry, rule = Carry(graph, linear, BACKWARD, view.affine), fold_affine_into_producer.RULE
    if any(check(carry) is not None for _, check in rule.premises):
        return
    for step in rule.steps(carry):
        if step.view is not None and not step.inserted:
            yield Plan(
                (SetView(step.view), Bypass(view.node, value, same=True)),
                changed=(value,),
                into=(producer,),
                rules=(RULE.name,),
            )


RULE = Rewrite(name="fold_shift_into_producer", view=AffineOp, plans=_plans)
