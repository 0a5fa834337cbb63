"""LayerNorms to what does not compute the same: an RMSNorm, a DyT, an affine map, each fitted by least squares.

What it does:
    Of some positions of each calibration sample it is known what the norm reads, and so what it makes of them. What
    takes its place gets, for each channel, the scale and the bias that come closest to that; a DyT the ``alpha`` for
    which that is best.

Fitted to:
    Calibration inputs. An RMSNorm is nearly as good as its source where channels have a mean that is small beside
    their deviation. A tanh, or an affine map, which knows nothing of the sample at hand, is a start for training.

Refused when:
    There are no calibration inputs (``calibration-data``), or the norm is over several axes (``one-axis``).

Source: Zhang and Sennrich, Root Mean Square Layer Normalization (arXiv 1910.07467); Zhu et al., Transformers without
Normalization (arXiv 2503.10622).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from normfold.core.algebra import Affine
from normfold.core.algebra.affine import Array
from normfold.core.graph import Graph
from normfold.core.plan import Plan, Replace, Respell
from normfold.core.premises import CALIBRATION_DATA, FIXED_STATISTICS, ONE_AXIS
from normfold.core.views import AffineOp, DynamicTanh, Node, Norm
from normfold.passes.convert.calibrated.design import SMALL
from normfold.passes.convert.calibrated.moments import Gatherer
from normfold.passes.convert.conversion import Asked, Conversion, Proposal
from normfold.records import Certificate, Label, Refusal

ALPHAS: Final = 2.0 ** np.arange(-4.0, 2.01, 0.5)
"""What alpha is tried, in inverse root mean squares of the input."""


@dataclass(frozen=True, eq=False, slots=True)
class _Fit:
    """``slope * v + intercept``, by channel, for what the norm makes; ``explained`` by channel."""

    slope: Array
    intercept: Array
    explained: Array


def fit(made: Array, wanted: Array) -> _Fit:
    """Least squares of ``wanted`` on ``made``, both ``[rows, channels]``, channel by channel."""
    mean, target = made.mean(0), wanted.mean(0)
    own, aim = made - mean, wanted - target
    spread, common = (own**2).mean(0), (own * aim).mean(0)
    slope = common / np.maximum(spread, SMALL)
    explained = common**2 / np.maximum(spread * (aim**2).mean(0), SMALL)
    return _Fit(slope, target - slope * mean, explained)


def _normed(x: Array, epsilon: float, *, centred: bool) -> Array:
    own = x - x.mean(1, keepdims=True) if centred else x
    return np.asarray(own / np.sqrt((own**2).mean(1, keepdims=True) + epsilon))


@dataclass(frozen=True, eq=False, slots=True)
class _Source:
    """A norm of the channels of each position, and what it reads at some of them, ``[rows, channels]``."""

    view: Norm
    axis: int
    epsilon: float
    x: Array

    @property
    def wanted(self) -> Array:
        """What it makes of that, before its scale and bias."""
        return _normed(self.x, self.epsilon, centred=self.view.kind == "layer")

    @property
    def weight(self) -> Array:
        """What an error of each channel counts."""
        channels = self.x.shape[1]
        return (
            np.ones(channels) if self.view.tail is None else np.broadcast_to(self.tail.scale.reshape(-1) ** 2, channels)
        )

    @property
    def tail(self) -> Affine:
        """Its scale and bias."""
        return self.view.tail or Affine.of()

    def explained(self, found: _Fit) -> float:
        """The share of the variance of its output."""
        weight = self.weight
        return float((weight * found.explained).sum() / max(weight.sum(), SMALL))

    def behind(self, found: _Fit) -> Affine:
        """Its scale and bias after ``found``."""
        spread = (-1, *[1] * (-1 - self.axis))
        scale, shift = (
            np.broadcast_to(one.reshape(-1), found.slope.shape) for one in (self.tail.scale, self.tail.shift)
        )
        return Affine((scale * found.slope).reshape(spread), (scale * found.intercept + shift).reshape(spread))


Fitted = tuple[Plan, float, float]
"""The plan, R^2 and the share of constant variance."""


def _to_rms(_graph: Graph, source: _Source) -> Fitted:
    found = fit(_normed(source.x, source.epsilon, centred=False), source.wanted)
    view = replace(source.view, kind="rms", tail=source.behind(found), holds_shift=True)
    share = source.epsilon / (float((source.x**2).mean()) + source.epsilon)
    return Plan((Replace(view),)), source.explained(found), share


def _to_dyt(graph: Graph, source: _Source) -> Fitted:
    size = 1.0 / max(float(np.sqrt((source.x**2).mean())), SMALL)
    tried = [(alpha, fit(np.tanh(alpha * source.x), source.wanted)) for alpha in ALPHAS * size]
    alpha, found = max(tried, key=lambda one: source.explained(one[1]))
    view = source.view
    because = f"{graph.label(view.node)} squashes its input by a tanh"
    new = DynamicTanh(
        node=view.node,
        op="DynamicTanh",
        inputs=view.inputs,
        outputs=view.outputs,
        alpha=float(alpha),
        tail=source.behind(found),
        core=Refusal(FIXED_STATISTICS, because),
    )
    return Plan((Replace(new),)), source.explained(found), 1.0


def _to_static(_graph: Graph, source: _Source) -> Fitted:
    found, view = fit(source.x, source.wanted), source.view
    new = AffineOp(
        node=view.node,
        op="Mul",
        inputs=view.inputs,
        outputs=view.outputs,
        affine=source.behind(found),
        holds_scale=True,
        holds_shift=True,
        axis=source.axis,
        largest=view.largest,
    )
    return Plan((Respell(new, "static"),)), source.explained(found), 1.0


MAKERS: Final[Mapping[str, Callable[[Graph, _Source], Fitted]]] = {
    "rms": _to_rms,
    "dyt": _to_dyt,
    "static": _to_static,
}


def _proposals(graph: Graph, norms: Sequence[Node], asked: Asked) -> Iterator[Proposal]:
    views = {node: view for node in norms if isinstance(view := graph.view(node), Norm)}
    open_to = {node: view for node, view in views.items() if _refusal(graph, view, asked) is None}
    wanted = {
        node: Gatherer(view.axes[0], per_position=True, seed=asked.fitting.seed)
        for node, view in open_to.items()
        if view.axes
    }
    if wanted and asked.fitting.observer is not None:
        asked.fitting.observer.observe(graph, wanted)
    for node, view in views.items():
        refusal = _refusal(graph, view, asked)
        if refusal is not None or view.axes is None or view.epsilon is None:
            yield Proposal((node,), refusals=() if refusal is None else (refusal,))
            continue
        source = _Source(view, view.axes[0], view.epsilon, wanted[node].moments().first)
        yield _proposal(graph, source, asked)


def _proposal(graph: Graph, source: _Source, asked: Asked) -> Proposal:
    node = source.view.node
    plan, r2, share = MAKERS[asked.target](graph, source)
    plan = replace(plan, rules=(CONVERSION.name,))
    unable = graph.unable(plan)
    if unable is not None:
        return Proposal((node,), refusals=(unable,))
    label: Label = "calibrated" if asked.target == "rms" else "needs-training"
    return Proposal((node,), plan, certificates={node: Certificate(label, r2=r2, constant_share=share)})


def _refusal(graph: Graph, view: Norm, asked: Asked) -> Refusal | None:
    """Why the norm is not fitted."""
    label = graph.label(view.node)
    if view.refusals:
        return view.refusals[0]
    if asked.fitting.observer is None:
        return Refusal(CALIBRATION_DATA, f"there are no inputs to fit what takes the place of {label} to")
    if view.axes is None or len(view.axes) != 1 or view.epsilon is None or view.groups is not None:
        return Refusal(ONE_AXIS, f"{label} is not over one axis, with an epsilon of its own")
    # Whether its module can make way, before it is looked at: a hook sees what a module reads, and not its insides.
    return graph.unable(Plan((Replace(replace(view, kind="rms", holds_shift=True)),)))


CONVERSION = Conversion(name="from_live", proposals=_proposals)
