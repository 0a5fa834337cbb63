"""Move a norm that stays behind the pooling that reads it, where there are fewer elements to normalise.

What it does:
    The pooling reads what the norm read, and the norm reads the pooling and writes what the pooling wrote. No constant
    changes.

When it holds:
    Nothing but the pooling reads the norm's output, the norm's map passes the pooling unchanged
    (`normfold.core.rules.carry_affine_through_pool`), the pooling makes the value smaller, and the cost table says
    that a norm behind a pooling costs less than one before it.

Example:
    ``Relu -> BatchNormalization -> MaxPool`` becomes ``Relu -> MaxPool -> BatchNormalization``, with positive scales.

Refused when:
    Never by itself: the norm stays for the reasons that its decision names.

Law: `normfold.core.laws.routes`.
"""

from __future__ import annotations

from collections.abc import Iterable

from normfold.core.algebra import Permute
from normfold.core.graph import Graph
from normfold.core.plan import Move, Plan
from normfold.core.rules.carry_affine_through_pool import RULE as PASSING
from normfold.core.rules.rule import FORWARD, Carry, Rewrite
from normfold.core.views import AffineOp, Pool


def _reader(graph: Graph, view: AffineOp) -> Pool | None:
    """The one operation that reads the norm, if it is a pooling that keeps the number of axes."""
    output = view.outputs[0]
    readers = graph.consumers(output)
    if len(readers) != 1 or graph.escapes(output) is not None:
        return None
    pool = graph.view(readers[0][0])
    plain = isinstance(pool, Pool) and not pool.refusals and pool.move == Permute()
    return pool if isinstance(pool, Pool) and plain else None


def _passes(carry: Carry[Pool]) -> bool:
    return all(check(carry) is None for _, check in PASSING.premises)


def _shrinks(graph: Graph, pool: Pool) -> bool:
    """Whether no pooled axis grows and one is known to become smaller."""
    before, after = graph.shape(pool.inputs[0]), graph.shape(pool.outputs[0])
    if before is None or after is None or len(before) != len(after):
        return False
    pairs = [(before[axis], after[axis]) for axis in pool.axes]
    known = [(old, new) for old, new in pairs if isinstance(old, int) and isinstance(new, int)]
    return len(known) == len(pairs) and all(new <= old for old, new in known) and any(new < old for old, new in known)


def _plans(graph: Graph, view: AffineOp) -> Iterable[Plan]:
    pool = None if view.refusals else _reader(graph, view)
    if pool is None or not _passes(Carry(graph, pool, FORWARD, view.affine)) or not _shrinks(graph, pool):
        return
    yield Plan((Move(view.node, pool.node),), into=(pool.node,), rules=(RULE.name,))


RULE = Rewrite(name="move_norm_past_pool", view=AffineOp, plans=_plans)
