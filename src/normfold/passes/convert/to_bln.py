"""BatchNorm, LayerNorm and RMSNorm to Batch Layer Normalization: one of its two parts does the work.

What it does:
    A BatchNorm becomes one with stored statistics in both parts, whose scale and shift make up for their shares. A
    LayerNorm, or an RMSNorm whose input has the mean zero, becomes one that normalises the features of each input, and
    whose part of the batch divides by so large a stored deviation that nothing is left of it.

Exact if:
    A BatchNorm's stays in evaluation mode: training may not update its statistics. The part of the batch of a LayerNorm
    has no share while ``|x|`` is at most 2^20. The input of an RMSNorm has the mean zero besides.

Refused when:
    A LayerNorm is over several axes (``one-axis``), or the model is a file, in which no operator is one
    (``needs-structure``).

Source: Ziaee and Cano, Batch Layer Normalization (arXiv 2209.08898).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from normfold.core.algebra import Affine
from normfold.core.graph import Graph
from normfold.core.plan import Plan, Replace
from normfold.core.premises import FIXED_STATISTICS, ONE_AXIS
from normfold.core.views import AffineOp, BatchLayer, Node, Norm, RunningStatistics, View
from normfold.passes.convert.conversion import Asked, Conversion, Proposal
from normfold.records import Certificate, Refusal

LEAK: Final = 1e-4
"""What each part's share lacks."""
BATCH_SIZE: Final = 32.0
"""The batch size that shares are made of, where both parts have one."""
EPSILON: Final = 1e-3
VARIANCE: Final = 2.0**80
"""That by which the part of the batch is divided where it is to have no share."""
REACH: Final = 2.0**20


def _proposals(graph: Graph, norms: Sequence[Node], _asked: Asked) -> Iterator[Proposal]:
    for node in norms:
        view = graph.view(node)
        made = _static(view) if isinstance(view, AffineOp) else _live(graph, view)
        if view.refusals or isinstance(made, Refusal):
            yield Proposal((node,), refusals=view.refusals or ((made,) if isinstance(made, Refusal) else ()))
            continue
        new, certificate = made
        plan = Plan((Replace(new),), rules=("to_bln",))
        unable = graph.unable(plan)
        refused = Proposal((node,), refusals=() if unable is None else (unable,))
        yield Proposal((node,), plan, certificates={node: certificate}) if unable is None else refused


def _layer(view: View, axis: int, tail: Affine, batch: RunningStatistics, epsilon: float) -> BatchLayer:
    return BatchLayer(
        node=view.node,
        op="BatchLayerNormalization",
        inputs=view.inputs,
        outputs=view.outputs,
        batch=batch,
        features=None,
        batch_size=1.0,
        epsilon=epsilon,
        axis=axis,
        tail=tail,
        core=Refusal(FIXED_STATISTICS, "it computes statistics from each input"),
    )


def _static(view: AffineOp) -> tuple[BatchLayer, Certificate]:
    """Both parts scale and shift the input: the constants behind make up what is wanted of that."""
    stored, share = view.statistics, 1 / BATCH_SIZE
    mean = np.zeros(()) if stored is None else stored.mean
    variance = np.ones(()) if stored is None else stored.variance
    batch, factor = RunningStatistics(mean, variance, EPSILON), 1 - share - LEAK
    features = RunningStatistics(np.zeros(()), np.asarray(1 - EPSILON), EPSILON)
    inner = Affine.of(share - LEAK + factor / batch.deviation, -factor * mean / batch.deviation)
    scale = view.affine.scale / inner.scale
    tail = Affine.of(scale, view.affine.shift - scale * inner.shift)
    axis = view.axis if view.axis is not None else -max(1, len(tail.shape))
    layer = _layer(view, axis, tail, batch, EPSILON)
    new = BatchLayer(**{**vars(layer), "features": features, "batch_size": BATCH_SIZE})
    return new, Certificate("exact-if", "its statistics stay the stored ones", 0.0, None, 1.0)


def as_features(norm: Norm, axis: int, width: int) -> BatchLayer:
    """What ``norm`` computes of the ``width`` channels along ``axis`` (negative), with no share of the batch."""
    own, spread = norm.tail or Affine.of(), (width, *[1] * (-1 - axis))
    epsilon = EPSILON if norm.epsilon is None else norm.epsilon
    batch = RunningStatistics(np.zeros(()), np.asarray(VARIANCE), epsilon)
    tail = Affine(np.broadcast_to(own.scale / (1 - LEAK), spread), np.broadcast_to(own.shift, spread))
    return _layer(norm, axis, tail, batch, epsilon)


def _live(graph: Graph, view: View) -> tuple[BatchLayer, Certificate] | Refusal:
    if not isinstance(view, Norm) or view.axes is None or len(view.axes) != 1 or view.epsilon is None:
        because = f"{graph.label(view.node)} does not normalise one axis alone, by an epsilon of its own"
        return Refusal(ONE_AXIS, because)
    (axis,), shape = view.axes, graph.shape(view.inputs[0])
    width = None if shape is None else shape[axis]
    new = as_features(view, axis, width if isinstance(width, int) else 1)
    condition = f"its input is at most {REACH:.0f} in magnitude"
    condition += ", and has the mean zero" if view.kind == "rms" else ""
    return new, Certificate("exact-if", condition, LEAK * REACH / VARIANCE**0.5)


CONVERSION = Conversion(name="to_bln", proposals=_proposals)
