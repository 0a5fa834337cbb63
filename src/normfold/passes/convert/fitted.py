"""Norms to what does not compute the same: another norm, a DyT, an affine map, each fitted by least squares.

What it does:
    Of some positions of each calibration sample it is known what the norm reads, and what it makes of it. What takes
    its place gets, for each channel, the scale and the bias that come closest to that; a DyT the ``alpha`` for which
    that is best. A BatchNorm gets the statistics of what it reads besides, and a Batch Layer Normalization the
    LayerNorm as its part of the features.

Fitted to:
    Calibration inputs. An RMSNorm is nearly as good as its LayerNorm where channels have a mean that is small beside
    their deviation; an affine map as its DyT where alpha times the input is small, or as its GroupNorm where the
    statistics of samples hardly vary. Anything else is a start for training.

Refused when:
    There are no calibration inputs (``calibration-data``), the norm is over several axes (``one-axis``), channels
    cannot be grouped as asked, or a group is one value (``meaningful``), or a tanh bends its input (``bounded-error``).

Source: Zhang and Sennrich, Root Mean Square Layer Normalization (arXiv 1910.07467); Zhu et al., Transformers without
Normalization (arXiv 2503.10622).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Final, Literal

import numpy as np

from normfold.core.algebra import Affine
from normfold.core.algebra.affine import Array
from normfold.core.graph import Graph
from normfold.core.plan import Plan, Replace, Respell
from normfold.core.premises import BOUNDED_ERROR, CALIBRATION_DATA, FIXED_STATISTICS, ONE_AXIS
from normfold.core.views import (
    AffineOp,
    BatchLayer,
    DynamicTanh,
    Groups,
    Node,
    Norm,
    NormKind,
    RunningStatistics,
    Spelling,
    View,
)
from normfold.passes.convert.calibrated.design import SMALL
from normfold.passes.convert.calibrated.moments import Rows, Sampler
from normfold.passes.convert.conversion import Asked, Conversion, Proposal, Target
from normfold.passes.convert.grouping import grouped, ungroupable
from normfold.passes.convert.kinds import squashed
from normfold.passes.convert.to_bln import as_features
from normfold.records import Certificate, Refusal

ALPHAS: Final = 2.0 ** np.arange(-4.0, 2.01, 0.5)
"""What alpha is tried, in inverse root mean squares of the input."""
EPSILON: Final = 1e-5
"""That of a norm whose source has none."""
STRAIGHT: Final = 0.99
"""The share of a DyT's variance that an affine map explains where its tanh hardly bends."""


@dataclass(frozen=True, eq=False, slots=True)
class _Fit:
    """``slope * v + intercept``, by channel, for what the norm makes; ``explained`` is the share of its variance."""

    slope: Array
    intercept: Array
    explained: float


def fit(made: Array, wanted: Array) -> _Fit:
    """Least squares of ``wanted`` on ``made``, both ``[rows, channels]``, channel by channel."""
    mean, target = made.mean(0), wanted.mean(0)
    own, aim = made - mean, wanted - target
    spread, common = (own**2).mean(0), (own * aim).mean(0)
    slope = common / np.maximum(spread, SMALL)
    explained = (slope * common).sum() / max(float((aim**2).mean(0).sum()), SMALL)
    return _Fit(slope, target - slope * mean, float(explained))


@dataclass(frozen=True, eq=False, slots=True)
class _Source:
    """A norm, the axis (negative) of its channels, and what it reads and makes at some positions."""

    view: View
    axis: int
    rows: Rows
    because: str

    @property
    def epsilon(self) -> float:
        """Its own, or one that is usual."""
        own = getattr(self.view, "epsilon", None)
        return EPSILON if own is None else float(own)

    def tail(self, found: _Fit) -> Affine:
        """Scale and bias that ``found`` asks for."""
        spread = (-1, *[1] * (-1 - self.axis))
        return Affine(found.slope.reshape(spread), found.intercept.reshape(spread))

    def norm(self, kind: NormKind, found: _Fit, groups: int = 0) -> Norm:
        """A norm of the channels of each position or, with ``groups``, of groups of them with all their positions."""
        view = self.view
        return Norm(
            node=view.node,
            op=view.op,
            inputs=view.inputs,
            outputs=view.outputs,
            kind=kind,
            axes=tuple(range(self.axis, 0)) if groups else (self.axis,),
            epsilon=self.epsilon,
            core=Refusal(FIXED_STATISTICS, self.because),
            tail=self.tail(found),
            holds_shift=True,
            largest=getattr(view, "largest", inf),
            groups=Groups(self.axis, groups) if groups else None,
            parts=view.parts if isinstance(view, Norm) else (),
        )


@dataclass(frozen=True, eq=False, slots=True)
class _Fitted:
    """What a norm may become: the ways to write it, the best one first, R^2, and the share of constant variance."""

    ways: tuple[Replace | Respell, ...]
    r2: float
    constant_share: float


def _normed(x: Array, epsilon: float, *, centred: bool) -> Array:
    own = x - x.mean(1, keepdims=True) if centred else x
    return np.asarray(own / np.sqrt((own**2).mean(1, keepdims=True) + epsilon))


def _to_norm(_graph: Graph, source: _Source, asked: Asked) -> _Fitted:
    """A norm of the channels of each position."""
    x, centred = source.rows.x, asked.target != "rms"
    found = fit(_normed(x, source.epsilon, centred=centred), source.rows.y)
    view = source.norm("layer" if centred else "rms", found)
    variance = (x.var(1) if centred else (x**2).mean(1)).mean()
    share = source.epsilon / (float(variance) + source.epsilon)
    ways = (Replace(view), Respell(view, "layer")) if centred else (Replace(view),)
    if asked.target == "bln":
        ways = (Replace(as_features(view, source.axis, x.shape[1])),)
    return _Fitted(ways, found.explained, share)


def _to_groups(_graph: Graph, source: _Source, asked: Asked) -> _Fitted:
    """A norm of groups of channels with all their positions, by the moments of each row's sample."""
    rows, channels = source.rows, source.rows.x.shape[1]
    count = grouped(asked, channels) or 1
    first, second = (one.reshape(len(one), count, -1).mean(2) for one in (rows.first, rows.second))
    variance = np.maximum(second - first**2, 0.0)
    width = channels // count
    mean, deviation = (np.repeat(one, width, 1) for one in (first, np.sqrt(variance + source.epsilon)))
    found = fit((rows.x - mean) / deviation, rows.y)
    by: Literal["instance", "group"] = "instance" if asked.target == "instance" else "group"
    view = source.norm(by, found, count)
    share = source.epsilon / (float(variance.mean()) + source.epsilon)
    return _Fitted((Respell(view, by),), found.explained, share)


def _to_dyt(_graph: Graph, source: _Source, _asked: Asked) -> _Fitted:
    x, view = source.rows.x, source.view
    size = 1.0 / max(float(np.sqrt((x**2).mean())), SMALL)
    tried = [(alpha, fit(np.tanh(alpha * x), source.rows.y)) for alpha in ALPHAS * size]
    alpha, found = max(tried, key=lambda one: one[1].explained)
    new = DynamicTanh(
        node=view.node,
        op="DynamicTanh",
        inputs=view.inputs,
        outputs=view.outputs,
        alpha=float(alpha),
        tail=source.tail(found),
        core=Refusal(FIXED_STATISTICS, source.because),
    )
    return _Fitted((Replace(new),), found.explained, 1.0)


def _to_affine(_graph: Graph, source: _Source, asked: Asked) -> _Fitted:
    """An affine map, which is stored as a BatchNorm with the statistics of its input where one is asked for."""
    x, view, found = source.rows.x, source.view, fit(source.rows.x, source.rows.y)
    spread = (-1, *[1] * (-1 - source.axis))
    stored = RunningStatistics(x.mean(0).reshape(spread), x.var(0).reshape(spread), source.epsilon)
    new = AffineOp(
        node=view.node,
        op="Mul",
        inputs=view.inputs,
        outputs=view.outputs,
        affine=source.tail(found),
        holds_scale=True,
        holds_shift=True,
        axis=source.axis,
        statistics=None if asked.target == "static" else stored,
        largest=getattr(view, "largest", inf),
    )
    by: Spelling = next(one for one in AFFINE if one == asked.target)
    return _Fitted((Respell(new, by),), found.explained, 1.0)


AFFINE: Final[tuple[Spelling, ...]] = ("static", "batch", "frozen")
MAKERS: Final[Mapping[Target, Callable[[Graph, _Source, Asked], _Fitted]]] = {
    **dict.fromkeys(("layer", "rms", "bln"), _to_norm),
    **dict.fromkeys(("group", "instance"), _to_groups),
    **dict.fromkeys(("static", "batch", "frozen"), _to_affine),
    "dyt": _to_dyt,
}


def _proposals(graph: Graph, norms: Sequence[Node], asked: Asked, *, straight: bool = False) -> Iterator[Proposal]:
    views, wanted, refusals = {}, {}, {}
    for node in norms:
        views[node] = squashed(graph, node) or graph.view(node)
        axis = _axis(views[node])
        refusal = _refusal(graph, views[node], axis, asked)
        if axis is None or refusal is not None:
            refusals[node] = refusal
        else:
            wanted[views[node].node] = Sampler(axis, asked.fitting.seed)
    if wanted and asked.fitting.observer is not None:
        asked.fitting.observer.observe(graph, wanted)
    for node, view in views.items():
        refusal = refusals.get(node)
        if refusal is not None:
            yield Proposal((node,), refusals=(refusal,))
            continue
        gathered = wanted[view.node]
        because = f"{graph.label(view.node)} is no affine map any more"
        yield _proposal(graph, node, _Source(view, gathered.axis, gathered.rows(), because), asked, straight=straight)


def _proposal(graph: Graph, node: Node, source: _Source, asked: Asked, *, straight: bool) -> Proposal:
    label = graph.label(source.view.node)
    refusal = ungroupable(graph, source.view, source.axis, source.rows.x.shape[1], asked)
    if refusal is not None:
        return Proposal((node,), refusals=(refusal,))
    made = MAKERS[asked.target](graph, source, asked)
    if straight and made.r2 < STRAIGHT:
        because = f"an affine map explains {made.r2:.3f} of the variance of {label}: alpha times its input is not small"
        return Proposal((node,), refusals=(Refusal(BOUNDED_ERROR, because),))
    refused = []
    for way in made.ways:
        plan = Plan((way,), rules=(CONVERSION.name,))
        unable = graph.unable(plan)
        if unable is None:
            certificate = Certificate("calibrated", r2=made.r2, constant_share=made.constant_share)
            return Proposal((node,), plan, certificates={node: certificate})
        refused.append(unable)
    return Proposal((node,), refusals=tuple(refused))


def _axis(view: View) -> int | None:
    """The axis (negative) of the channels that a norm takes one by one, or has a scale for; None where none is."""
    match view:
        case Norm(groups=Groups(axis=axis)):
            return axis
        case Norm(axes=(axis,)):
            return axis
        case BatchLayer(axis=axis):
            return axis
        case DynamicTanh(tail=tail):
            along = [k for k, size in enumerate(tail.shape, -len(tail.shape)) if size > 1]
            return along[0] if len(along) == 1 else None
    return None


def _refusal(graph: Graph, view: View, axis: int | None, asked: Asked) -> Refusal | None:
    """Why the norm is not fitted."""
    label = graph.label(view.node)
    if view.refusals:
        return view.refusals[0]
    if asked.fitting.observer is None:
        return Refusal(CALIBRATION_DATA, f"there are no inputs to fit what takes the place of {label} to")
    if axis is None or (isinstance(view, Norm) and view.epsilon is None):
        return Refusal(ONE_AXIS, f"{label} is not over one axis, with an epsilon of its own")
    # Whether its module can make way, before it is looked at: a hook sees what a module reads, and not its insides.
    return graph.unable(Plan((Respell(_placeholder(view, axis), "static"),)))


def _placeholder(view: View, axis: int) -> AffineOp:
    return AffineOp(
        node=view.node,
        op="Mul",
        inputs=view.inputs,
        outputs=view.outputs,
        affine=Affine.of(),
        holds_scale=True,
        holds_shift=True,
        axis=axis,
        largest=inf,
    )


CONVERSION = Conversion(name="fitted", proposals=_proposals)
STRAIGHT_TANH = Conversion(name="fitted", proposals=partial(_proposals, straight=True))
