"""Operations to views; `LIFTS` says which kind is read by which function."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from normfold.backends.torch.lift import linear as lift_linear
from normfold.backends.torch.lift import moving as lift_moving
from normfold.backends.torch.lift import norms as lift_norms
from normfold.backends.torch.lift import pointwise as lift_pointwise
from normfold.backends.torch.lift import recurrent as lift_recurrent
from normfold.backends.torch.lift import tables as lift_tables
from normfold.backends.torch.tracer import Op
from normfold.backends.torch.tree import ModuleTree
from normfold.core.views import NotLifted, Opaque, View
from normfold.records import Refusal

LIFTS: Mapping[str, Callable[[ModuleTree, Op], View]] = {
    **lift_linear.LIFTS,
    **lift_moving.LIFTS,
    **lift_norms.NORMS,
    **lift_pointwise.LIFTS,
    **lift_recurrent.LIFTS,
    **lift_tables.LIFTS,
}


def lift(tree: ModuleTree, op: Op) -> View:
    """``op`` as a view; `Opaque` where none describes it, with the reason where one almost did."""
    function = LIFTS.get(op.kind)
    if function is None:
        return _opaque(op)
    try:
        return function(tree, op)
    except NotLifted as reason:
        return _opaque(op, reason.refusal)


def _opaque(op: Op, *refusals: Refusal) -> Opaque:
    inputs = tuple(value for value in op.inputs if value.tensor is None)
    return Opaque(node=op, op=op.kind, inputs=inputs, outputs=op.outputs, refusals=refusals)
