"""Batch Layer Normalization to LayerNorm or RMSNorm: where the part of the batch has next to no share, it goes.

What it does:
    What normalises the features of each input stays, with the scale that its share makes of it. The part of the batch,
    by stored statistics, is left out.

Exact if:
    ``|x|`` is at most 2^20, and the part of the batch is then at most a millionth of the other. An RMSNorm does the
    same where the mean of the input's channels is zero besides.

Refused when:
    The part of the batch is larger (``bounded-error``) or uses statistics of the input, or channels are not along the
    last axis (``trailing-axes``).

Source: Ziaee and Cano, Batch Layer Normalization (arXiv 2209.08898).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from normfold.core.algebra import Affine
from normfold.core.graph import Graph
from normfold.core.plan import Plan, Replace
from normfold.core.premises import BOUNDED_ERROR, TRAILING_AXES
from normfold.core.views import BatchLayer, Node, Norm, NormKind
from normfold.passes.convert.conversion import Asked, Conversion, Proposal
from normfold.passes.convert.to_bln import LEAK, REACH
from normfold.records import Certificate, Refusal

MOST: Final = 1e-6
"""What the part of the batch may be of the other one."""


def _proposals(graph: Graph, norms: Sequence[Node], asked: Asked) -> Iterator[Proposal]:
    for node in norms:
        view = graph.view(node)
        if not isinstance(view, BatchLayer):
            raise TypeError(f"not a Batch Layer Normalization: {graph.label(node)}")
        yield _judged(graph, view, "rms" if asked.target == "rms" else "layer")


def _judged(graph: Graph, view: BatchLayer, kind: NormKind) -> Proposal:
    label, share, batch = graph.label(view.node), 1 / view.batch_size, view.batch
    if view.axis != -1:
        refusal = Refusal(TRAILING_AXES, f"the channels of {label} are not along the last axis")
        return Proposal((view.node,), refusals=(refusal,))
    if batch is None or view.features is not None:
        refusal = Refusal(BOUNDED_ERROR, f"the part of {label} that normalises the batch does so by the batch at hand")
        return Proposal((view.node,), refusals=(refusal,))
    factor = share - LEAK
    bound = float(abs(1 - share - LEAK) * (REACH + abs(batch.mean)).max() / batch.deviation.min() / abs(factor))
    if not bound <= MOST:
        because = f"the part of the batch of {label} is up to {bound:.3g} times that of the features"
        return Proposal((view.node,), refusals=(Refusal(BOUNDED_ERROR, because),))
    new = Norm(
        node=view.node,
        op="LayerNormalization" if kind == "layer" else "RMSNormalization",
        inputs=view.inputs,
        outputs=view.outputs,
        kind=kind,
        axes=(-1,),
        epsilon=view.epsilon,
        core=view.core,
        tail=Affine.of(view.tail.scale * factor, view.tail.shift),
        holds_shift=True,
        largest=REACH,
    )
    plan = Plan((Replace(new),), rules=("bln_to_layer",))
    unable = graph.unable(plan)
    if unable is not None:
        return Proposal((view.node,), refusals=(unable,))
    condition = f"its input is at most {REACH:.0f} in magnitude" + (", and has the mean zero" if kind == "rms" else "")
    certificate = Certificate("exact-if", condition, bound)
    return Proposal((view.node,), plan, certificates={view.node: certificate})


CONVERSION = Conversion(name="bln_to_layer", proposals=_proposals)
