"""Norms that compute their statistics from each input, as `Norm`."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from normfold.backends.onnx.lift.context import Context, data
from normfold.decisions import Refusal
from normfold.ops import Norm, View

MICROSOFT = "com.microsoft"

KINDS: frozenset[tuple[str, str]] = frozenset(
    {
        ("", "LayerNormalization"),
        ("", "RMSNormalization"),
        ("", "GroupNormalization"),
        ("", "InstanceNormalization"),
        ("", "MeanVarianceNormalization"),
        ("", "LpNormalization"),
        ("", "LRN"),
        ("", "SimplifiedLayerNormalization"),
        (MICROSOFT, "SimplifiedLayerNormalization"),
        (MICROSOFT, "SkipLayerNormalization"),
        (MICROSOFT, "SkipSimplifiedLayerNormalization"),
        (MICROSOFT, "EmbedLayerNormalization"),
        (MICROSOFT, "GroupNorm"),
        (MICROSOFT, "SkipGroupNorm"),
        (MICROSOFT, "BatchNormInternal"),
    }
)
"""Operators, with their domain, that normalise by statistics of the input at hand."""


def live_statistics(label: str, norm: str) -> Refusal:
    """Why the core of such a norm stays."""
    return Refusal(
        "fixed-statistics",
        f"{label} ({norm}) computes its statistics from each input, so it is not one affine map; only its scale and "
        "shift could move",
    )


def _norm(context: Context, node: ir.Node) -> View:
    return Norm(
        node=node,
        op=node.op_type,
        inputs=(data(node),),
        outputs=tuple(node.outputs),
        refusals=(live_statistics(context.label(node), node.op_type),),
        tail=None,
    )


LIFTS: dict[tuple[str, str], Callable[[Context, ir.Node], View]] = dict.fromkeys(KINDS, _norm)
