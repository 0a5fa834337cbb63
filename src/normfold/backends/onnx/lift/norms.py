"""Norms that compute their statistics from each input, as `Norm`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import onnx_ir as ir

from normfold.backends.onnx.lift.context import Context, data
from normfold.backends.onnx.reading.constants import exact, largest
from normfold.core.algebra import Affine
from normfold.core.premises import FIXED_STATISTICS, KNOWN_RANK, LINEAR_CONSUMER, SINGLE_USE
from normfold.core.views import Groups, Norm, NormKind, NotLifted, View
from normfold.records import Refusal

MICROSOFT = "com.microsoft"

KINDS: Mapping[tuple[str, str], NormKind] = {
    ("", "LayerNormalization"): "layer",
    ("", "RMSNormalization"): "rms",
    ("", "GroupNormalization"): "group",
    ("", "InstanceNormalization"): "instance",
    ("", "MeanVarianceNormalization"): "mean-variance",
    ("", "LpNormalization"): "lp",
    ("", "LRN"): "local-response",
    ("", "SimplifiedLayerNormalization"): "rms",
    (MICROSOFT, "SimplifiedLayerNormalization"): "rms",
    (MICROSOFT, "SkipLayerNormalization"): "layer",
    (MICROSOFT, "SkipSimplifiedLayerNormalization"): "rms",
    (MICROSOFT, "EmbedLayerNormalization"): "layer",
    (MICROSOFT, "GroupNorm"): "group",
    (MICROSOFT, "SkipGroupNorm"): "group",
    (MICROSOFT, "BatchNormInternal"): "batch",
}
"""Operators, with their domain, that normalise by statistics of the input at hand."""
EPSILON: Mapping[NormKind, float] = {"group": 1e-5, "mean-variance": 1e-9, "lp": 0.0, "local-response": 1.0}
"""What is added where no attribute says so, if it is not 1e-5."""


def live_statistics(label: str, norm: str) -> Refusal:
    """Why the core of such a norm stays."""
    return Refusal(
        FIXED_STATISTICS,
        f"{label} ({norm}) computes its statistics from each input, so it is not one affine map; only its scale and "
        "shift could move",
    )


def tail_slots(node: ir.Node) -> tuple[int, ...]:
    """Where ``node`` reads its scale and, if it has one, its bias."""
    slots = SLOTS.get(node.op_type, (1, 2))
    return slots if len(node.inputs) > slots[-1] and node.inputs[slots[-1]] is not None else slots[:1]


def _norm(context: Context, node: ir.Node) -> View:
    """A norm whose tail is not read."""
    return _view(context, node, None)


def _view(
    context: Context, node: ir.Node, tail: Affine | None, groups: Groups | None = None, *, terms: Sequence[int] = (0,)
) -> Norm:
    slots = tail_slots(node)
    kind = KINDS[context.domain(node), node.op_type]
    return Norm(
        node=node,
        op=node.op_type,
        inputs=tuple(data(node, k) for k in terms),
        outputs=(node.outputs[0],),
        kind=kind,
        axes=_axes(context, node, kind),
        epsilon=node.attributes.get_float("bias" if kind == "local-response" else "epsilon", EPSILON.get(kind, 1e-5)),
        core=live_statistics(context.label(node), node.op_type),
        tail=tail,
        holds_shift=len(slots) > 1,
        largest=0.0 if tail is None else largest(context.tensor(node, slots[0], "the scale").dtype),
        groups=groups,
    )


def _axes(context: Context, node: ir.Node, kind: NormKind) -> tuple[int, ...] | None:
    """The axes that statistics are taken over, counted from the end."""
    rank, axis = context.rank(data(node)), node.attributes.get_int("axis", -1)
    if rank is not None and kind in ("layer", "rms", "lp"):
        context.axes(node, (axis,), rank)
    if kind in ("layer", "rms", "lp") and axis < 0:
        return (axis,) if kind == "lp" else tuple(range(axis, 0))
    if rank is None:
        return None
    if kind == "mean-variance":
        return tuple(sorted(context.axes(node, node.attributes.get_ints("axes", (0, 2, 3)), rank)))
    spatial = tuple(range(2 - rank, 0))
    return {
        "layer": tuple(range(axis - rank, 0)),
        "rms": tuple(range(axis - rank, 0)),
        "lp": (axis - rank,),
        "local-response": (1 - rank,),
        "group": (1 - rank, *spatial),
        "instance": spatial,
        "batch": (-rank, *spatial),
    }[kind]


def _tail(context: Context, node: ir.Node) -> Affine:
    """Scale and bias, of the shape of the normalised trailing axes."""
    roles = zip(tail_slots(node), ("the scale", "the bias"), strict=False)
    constants = [exact(context.tensor(node, slot, role)) for slot, role in roles]
    context.require(node, "the bias", fits=len({constant.shape for constant in constants}) == 1)
    return Affine.of(*constants)


def _trailing(context: Context, node: ir.Node) -> View:
    """LayerNormalization and RMSNormalization."""
    if sum(bool(output.uses()) for output in node.outputs[1:]):
        raise NotLifted(SINGLE_USE, f"{context.label(node)} also returns its statistics")
    tail = _tail(context, node)
    context.within(node, data(node), tail.shape)
    return _view(context, node, tail)


def _skip(context: Context, node: ir.Node) -> View:
    """The norm of a sum. The other outputs, statistics and the sum, do not know the scale and bias."""
    tail = _tail(context, node)
    context.within(node, data(node), tail.shape)
    return _view(context, node, tail, terms=(0, 1))


def _embed(context: Context, node: ir.Node) -> View:
    """The norm of a sum of embeddings."""
    return _view(context, node, _tail(context, node))


def _channels(context: Context, node: ir.Node) -> View:
    """InstanceNormalization, and GroupNormalization from opset 21 on: scale and bias per channel."""
    rank = context.rank(data(node))
    if rank is None:
        raise NotLifted(KNOWN_RANK, f"the rank of the input of {context.label(node)} is not known")
    if node.op_type == "GroupNormalization" and context.opset < 21:
        return _norm(context, node)
    channels = context.tensor(node, 1, "the scale").size
    context.require(node, "the number of axes", fits=rank >= 2)
    context.same_size(node, data(node), 1, channels)
    tail, spread = _tail(context, node), (-1, *[1] * (rank - 2))
    count = node.attributes.get_int("num_groups", 0) or channels
    context.require(node, "num_groups", fits=count > 0 and channels % count == 0)
    tail = Affine.of(tail.scale.reshape(spread), tail.shift.reshape(spread))
    return _view(context, node, tail, Groups(1 - rank, count))


def _group_norm(context: Context, node: ir.Node) -> View:
    """com.microsoft's GroupNorm, whose channels come last by default, and which may end in an activation.

    SkipGroupNorm is that of a sum, which is its other output and does not know the scale and bias.
    """
    label, terms = context.label(node), (0, 3) if node.op_type == "SkipGroupNorm" else (0,)
    if node.attributes.get_int("activation", 0):
        because = f"{label} ends in an activation, which cannot take a scale and a shift"
        return replace(_view(context, node, None), refusals=(Refusal(LINEAR_CONSUMER, because),))
    rank = context.rank(data(node))
    if rank is None:
        raise NotLifted(KNOWN_RANK, f"the rank of the input of {label} is not known")
    axis = -1 if node.attributes.get_int("channels_last", 1) else 1 - rank
    count, channels = node.attributes.get_int("groups", 1), context.tensor(node, 1, "the scale").size
    context.require(node, "groups", fits=rank >= 2 and count > 0 and channels % count == 0)
    context.same_size(node, data(node), axis, channels)
    spread = (-1, *[1] * (-1 - axis))
    tail = _tail(context, node)
    tail = Affine.of(tail.scale.reshape(spread), tail.shift.reshape(spread))
    return _view(context, node, tail, Groups(axis, count), terms=terms)


SLOTS: dict[str, tuple[int, ...]] = {
    "SkipLayerNormalization": (2, 3),
    "SkipSimplifiedLayerNormalization": (2,),
    "EmbedLayerNormalization": (5, 6),
}
"""Where an operator reads its scale and its bias, if not at inputs 1 and 2."""

LIFTS: dict[tuple[str, str], Callable[[Context, ir.Node], View]] = {
    **dict.fromkeys(KINDS, _norm),
    ("", "LayerNormalization"): _trailing,
    ("", "RMSNormalization"): _trailing,
    ("", "SimplifiedLayerNormalization"): _trailing,
    (MICROSOFT, "SimplifiedLayerNormalization"): _trailing,
    ("", "InstanceNormalization"): _channels,
    ("", "GroupNormalization"): _channels,
    (MICROSOFT, "SkipLayerNormalization"): _skip,
    (MICROSOFT, "SkipSimplifiedLayerNormalization"): _skip,
    (MICROSOFT, "EmbedLayerNormalization"): _embed,
    (MICROSOFT, "GroupNorm"): _group_norm,
    (MICROSOFT, "SkipGroupNorm"): _group_norm,
}
