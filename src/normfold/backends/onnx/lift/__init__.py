"""Native nodes to views, one family a file; `LIFTS` says which operator is read by which function."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx_ir as ir

from normfold.backends.onnx.lift import affine, blocks, moving, norms, pointwise, pooling, quantized, recurrent, tables
from normfold.backends.onnx.lift.context import Context, opaque
from normfold.core.views import NotLifted, View

LIFTS: Mapping[tuple[str, str], Callable[[Context, ir.Node], View]] = {
    **{("", op): lift for op, lift in quantized.LIFTS.items()},
    **{("", op): lift for op, lift in affine.LIFTS.items()},
    **{("", op): lift for op, lift in moving.LIFTS.items()},
    **{("", op): lift for op, lift in pointwise.LIFTS.items()},
    **{("", op): lift for op, lift in pooling.LIFTS.items()},
    **{("", op): lift for op, lift in recurrent.LIFTS.items()},
    **{("", op): lift for op, lift in tables.LIFTS.items()},
    **norms.LIFTS,
    **blocks.LIFTS,
    ("ai.onnx.ml", "Scaler"): affine.scaler,
}


def lift(context: Context, node: ir.Node) -> View:
    """``node`` as a view; `Opaque` where none describes it, with the reason where one almost did."""
    function = LIFTS.get((context.domain(node), node.op_type))
    if function is None:
        return opaque(node)
    try:
        return function(context, node)
    except NotLifted as reason:
        return opaque(node, reason.refusal)
