"""GroupNorm to InstanceNorm: groups of channels, with all their positions, are the channels of a reshaped input.

What it does:
    ``GN(x)`` is an InstanceNorm of ``x`` as ``[N, groups, -1]``, reshaped back, times the scale plus the bias of each
    channel. ONNX Runtime's CPU provider has a kernel for the InstanceNorm and none for the GroupNorm, which it takes
    apart into some thirty operations.

Exact when:
    Channels are along the second axis, and of the input's other sizes but the first one is unknown at most.

Refused when:
    The type has no kernel (``has-kernel``), sizes are not known (``known-sizes``), or a module tree would need
    operations of its own (``needs-structure``).

Source: Wu and He, Group Normalization (arXiv 1803.08494), section 3.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from normfold.core.graph import Graph
from normfold.core.plan import Plan, Replace
from normfold.core.premises import CONSTANT
from normfold.core.views import Node, Norm
from normfold.passes.convert.conversion import Asked, Conversion, Proposal
from normfold.records import Refusal


def _proposals(graph: Graph, norms: Sequence[Node], _asked: Asked) -> Iterator[Proposal]:
    for node in norms:
        view = graph.view(node)
        if not isinstance(view, Norm):
            raise TypeError(f"not a norm: {graph.label(node)}")
        if view.refusals or view.tail is None:
            yield Proposal(
                (node,),
                refusals=view.refusals
                or (Refusal(CONSTANT, f"the scale and bias of {graph.label(node)} are not read"),),
            )
            continue
        plan = Plan((Replace(replace(view, kind="instance")),), into=(node,), rules=("group_to_instance",))
        unable = graph.unable(plan)
        refusals = () if unable is None else (unable,)
        yield Proposal((node,), refusals=refusals) if refusals else Proposal((node,), plan)


CONVERSION = Conversion(name="group_to_instance", proposals=_proposals)
