"""Weight norm to BatchNorm: the weight is computed once, and a BatchNorm that changes nothing stands behind it.

What it does:
    The weight is stored as it is computed, and a BatchNorm follows its operation: with the mean and variance that
    calibration inputs have there, and a scale and a bias that take them back. Without any, its mean is zero and its
    variance one.

Exact if:
    Its statistics stay the stored ones, as in evaluation mode. Those that calibration inputs have are what training
    begins with.

Refused when:
    The weight cannot be computed once (``called-once``, ``needs-structure``), channels are not along the second axis
    (``known-rank``), or the model is a file, in which an operation that changes nothing has no place
    (``needs-structure``).

Source: Salimans and Kingma, Weight Normalization (arXiv 1602.07868), section 3.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import inf
from typing import Final

import numpy as np

from normfold.core.algebra import Affine
from normfold.core.graph import Graph
from normfold.core.plan import Insert
from normfold.core.views import AffineOp, Linear, Node, RunningStatistics
from normfold.passes.convert.calibrated.moments import Gatherer, SampleMoments
from normfold.passes.convert.conversion import Asked, Conversion, Proposal
from normfold.passes.convert.weight_to_static import baked

EPSILON: Final = 1e-5


def _proposals(graph: Graph, norms: Sequence[Node], asked: Asked) -> Iterator[Proposal]:
    views = {node: view for node in norms if isinstance(view := graph.view(node), Linear)}
    wanted = {node: Gatherer(view.out_axes[0], needs_output=True) for node, view in views.items()}
    if asked.fitting.observer is not None:
        asked.fitting.observer.observe(graph, wanted)
    for node in norms:
        proposal = baked(graph, node)
        if proposal.plan is None or node not in views:
            yield proposal
            continue
        moments = None if asked.fitting.observer is None else wanted[node].moments()
        plan = proposal.plan.adding(_follower(views[node], moments, asked))
        unable = graph.unable(plan)
        yield Proposal((node,), plan) if unable is None else Proposal((node,), refusals=(unable,))


def _follower(view: Linear, moments: SampleMoments | None, asked: Asked) -> Insert:
    """A BatchNorm behind ``view`` that gives back what it reads."""
    axis, channels = view.out_axes[0], view.weight.out_channels
    mean, variance = np.zeros(channels), np.full(channels, 1 - EPSILON)
    if moments is not None:
        mean, variance = moments.mean, moments.variance
    spread = (-1, *[1] * (-1 - axis))
    norm = AffineOp(
        node=None,
        op="FrozenBatchNormalization" if asked.target == "frozen" else "BatchNormalization",
        inputs=(view.outputs[0],),
        outputs=(),
        affine=Affine.of(),
        holds_scale=True,
        holds_shift=True,
        axis=axis,
        statistics=RunningStatistics(mean.reshape(spread), variance.reshape(spread), EPSILON),
        largest=inf,
    )
    return Insert(norm)


CONVERSION = Conversion(name="weight_to_batch", proposals=_proposals)
