"""One kind of norm by the operation of another: what is computed stays the same.

What it does:
    A LayerNorm, a GroupNorm and an InstanceNorm subtract the mean of some elements and divide by their deviation: each
    can normalise the elements of another, in another shape. ``GN(x)`` is an InstanceNorm, or a LayerNorm, of ``x`` as
    ``[N, groups, -1]``, reshaped back, times the scale plus the bias of each channel; an InstanceNorm is a GroupNorm
    with a group for each channel; a LayerNorm is a GroupNorm of one group, where every position is a sample. An RMSNorm
    is the first half of the LayerNorm of ``[x, -x]``, whose mean is zero. BatchNorms, synchronised or with fixed
    statistics, and InstanceNorms with running statistics are the same at inference, and an affine map by channel.

Exact when:
    Always: the same elements are normalised, with the same epsilon. A subclass that calls an activation keeps it.

Refused when:
    The type has no kernel (``has-kernel``), sizes are not known (``known-sizes``), the opset has no such operator
    (``opset-has-operator``), a number of groups was asked for that is not that of the norm (``same-groups``), or a
    module does more than normalise (``plain-norm``).

Source: Wu and He, Group Normalization (arXiv 1803.08494), section 3.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, get_args

from normfold.core.graph import Graph
from normfold.core.plan import Plan, Respell
from normfold.core.premises import CONSTANT, SAME_GROUPS
from normfold.core.views import Node, Norm, Spelling, View
from normfold.passes.convert.conversion import Asked, Conversion, Proposal
from normfold.records import Refusal

BY: Final[tuple[Spelling, ...]] = get_args(Spelling)


def _proposals(graph: Graph, norms: Sequence[Node], asked: Asked) -> Iterator[Proposal]:
    by = next(one for one in BY if one == asked.target)
    for node in norms:
        view = graph.view(node)
        plan = Plan((Respell(view, by),), rules=("respell",))
        refusal = _refusal(graph, view, asked) or graph.unable(plan)
        refusals = view.refusals or (() if refusal is None else (refusal,))
        yield Proposal((node,), refusals=refusals) if refusals else Proposal((node,), plan)


def _refusal(graph: Graph, view: View, asked: Asked) -> Refusal | None:
    """Why a norm that is live is not spelled so, whatever the backend."""
    label = graph.label(view.node)
    if not isinstance(view, Norm):
        return None
    if view.groups is None and view.axes is None:
        return Refusal(CONSTANT, f"what {label} normalises is not read")
    own = 1 if view.groups is None else view.groups.count
    if asked.target == "group" and (asked.count, asked.size) != (None, None):
        wanted = asked.count if asked.size is None else asked.groups(_channels(graph, view))
        if wanted != own:
            return Refusal(SAME_GROUPS, f"{label} normalises {own} groups of channels, and not those asked for")
    return None


def _channels(graph: Graph, view: Norm) -> int:
    """How many channels there are; 0 where that is not known."""
    shape = graph.shape(view.inputs[0])
    axis = view.groups.axis if view.groups is not None else (view.axes or (-1,))[0]
    size = None if shape is None else shape[axis]
    return size if isinstance(size, int) else 0


CONVERSION = Conversion(name="respell", proposals=_proposals)
