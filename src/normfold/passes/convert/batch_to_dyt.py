"""BatchNorm to DyT: a tanh hardly bends what is small.

What it does:
    ``a * x + d`` becomes ``(a / alpha) * tanh(alpha * x) + d`` with one ``alpha`` for all channels, so small that
    ``alpha * x`` is at most 2^-16 for every ``x`` within six deviations of its channel's mean, by the statistics that
    the norm has stored.

Exact if:
    ``|x|`` is at most that: the error is then at most ``(alpha * x)^2 / 3`` of ``a * x``, some 8e-11. Far outside it
    grows with the square. The tanh is inert: it squashes nothing. To train a DyT, fit one to data.

Refused when:
    The constants are held in half precision, where ``alpha * x`` would lose its digits (``representable``), or the norm
    has no statistics (``running-statistics``).

Source: Zhu et al., Transformers without Normalization (arXiv 2503.10622).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from normfold.core.algebra import Affine
from normfold.core.graph import Graph
from normfold.core.plan import Plan, Replace
from normfold.core.premises import REPRESENTABLE, RUNNING_STATISTICS
from normfold.core.views import AffineOp, DynamicTanh, Node
from normfold.passes.convert.conversion import Asked, Conversion, Proposal
from normfold.records import Certificate, Refusal

SIGMAS: Final = 6.0
"""Deviations from the mean within which inputs are expected."""
REACH: Final = 2.0**-16
"""The largest ``alpha * x`` within them."""
HALF: Final = 65504.0
"""The largest number in half precision."""


def _proposals(graph: Graph, norms: Sequence[Node], _asked: Asked) -> Iterator[Proposal]:
    for node in norms:
        view = graph.view(node)
        if not isinstance(view, AffineOp):
            raise TypeError(f"not an affine map: {graph.label(node)}")
        yield _judged(graph, view)


def _judged(graph: Graph, view: AffineOp) -> Proposal:
    label, stored = graph.label(view.node), view.statistics
    if view.refusals:
        return Proposal((view.node,), refusals=view.refusals)
    if stored is None:
        refusal = Refusal(RUNNING_STATISTICS, f"{label} has no statistics that say how large its input is")
        return Proposal((view.node,), refusals=(refusal,))
    if view.largest <= HALF:
        refusal = Refusal(REPRESENTABLE, f"{label} is in half precision, where a small alpha would cost digits")
        return Proposal((view.node,), refusals=(refusal,))
    reach = float(np.max(np.abs(stored.mean) + SIGMAS * stored.moments.deviation, initial=0.0)) or 1.0
    alpha = REACH / reach
    because = f"{label} squashes its input by a tanh"
    new = DynamicTanh(
        node=view.node,
        op="DynamicTanh",
        inputs=view.inputs,
        outputs=view.outputs,
        alpha=alpha,
        tail=Affine(view.affine.scale / alpha, view.affine.shift),
        core=Refusal(RUNNING_STATISTICS, because),
    )
    plan = Plan((Replace(new),), rules=("batch_to_dyt",))
    unable = graph.unable(plan)
    if unable is not None:
        return Proposal((view.node,), refusals=(unable,))
    # What the tanh makes of the input is all but the input: it normalises nothing.
    certificate = Certificate("exact-if", f"its input is at most {reach:.4g} in magnitude", REACH**2 / 3, None, 1.0)
    return Proposal((view.node,), plan, certificates={view.node: certificate})


CONVERSION = Conversion(name="batch_to_dyt", proposals=_proposals)
