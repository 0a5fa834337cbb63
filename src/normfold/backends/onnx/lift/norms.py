"""Norms that compute their statistics from each input, as `Norm`."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from normfold.algebra import Affine
from normfold.backends.onnx.lift.context import Context, NotLifted, data
from normfold.backends.onnx.tensors import exact, largest
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
    """A norm whose tail is not read."""
    return _view(context, node, None)


def _view(context: Context, node: ir.Node, tail: Affine | None) -> Norm:
    return Norm(
        node=node,
        op=node.op_type,
        inputs=(data(node),),
        outputs=(node.outputs[0],),
        core=live_statistics(context.label(node), node.op_type),
        tail=tail,
        holds_shift=len(node.inputs) > 2 and node.inputs[2] is not None,
        largest=0.0 if tail is None else largest(context.tensor(node, 1, "the scale").dtype),
    )


def _trailing(context: Context, node: ir.Node) -> View:
    """LayerNormalization and RMSNormalization: scale and bias have the shape of the normalised trailing axes."""
    if sum(bool(output.uses()) for output in node.outputs[1:]):
        raise NotLifted("single-use", f"{context.label(node)} also returns its statistics")
    scale, bias = context.tensor(node, 1, "the scale"), context.optional(node, 2, "the bias")
    return _view(context, node, Affine.of(exact(scale), 0.0 if bias is None else exact(bias)))


def _channels(context: Context, node: ir.Node) -> View:
    """InstanceNormalization, and GroupNormalization from opset 21 on: scale and bias per channel."""
    rank = context.rank(data(node))
    if rank is None:
        raise NotLifted("known-rank", f"the rank of the input of {context.label(node)} is not known")
    if node.op_type == "GroupNormalization" and context.opset < 21:
        return _norm(context, node)
    scale, bias = context.tensor(node, 1, "the scale"), context.tensor(node, 2, "the bias")
    spread = (-1, *[1] * (rank - 2))
    return _view(context, node, Affine.of(exact(scale).reshape(spread), exact(bias).reshape(spread)))


LIFTS: dict[tuple[str, str], Callable[[Context, ir.Node], View]] = {
    **dict.fromkeys(KINDS, _norm),
    ("", "LayerNormalization"): _trailing,
    ("", "RMSNormalization"): _trailing,
    ("", "SimplifiedLayerNormalization"): _trailing,
    (MICROSOFT, "SimplifiedLayerNormalization"): _trailing,
    ("", "InstanceNormalization"): _channels,
    ("", "GroupNormalization"): _channels,
}
