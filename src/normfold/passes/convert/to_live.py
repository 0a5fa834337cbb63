"""Norms with running statistics to live ones, fitted: GroupNorm, InstanceNorm, LayerNorm or RMSNorm of each position.

What it does:
    What writes the norm's input absorbs its standardisation, with a signed scale and an offset per channel that are
    chosen so that the new norm's statistics hardly vary from sample to sample, in closed form from the first and
    second moments of each sample's channels. The new norm's own scale and bias then bring mean and deviation of each
    channel back.

Fitted to:
    Calibration inputs; without any, to the running statistics, with an epsilon in place of offsets.

Refused when:
    Channels cannot be grouped as asked, a group is one value, which its norm would make zero, or all positions of what
    an InstanceNorm makes are averaged (``meaningful``).

Source: Wu and He, Group Normalization (arXiv 1803.08494); Ba et al., Layer Normalization (arXiv 1607.06450).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from normfold.core.algebra import Affine
from normfold.core.algebra.affine import Array
from normfold.core.graph import Graph
from normfold.core.origins import Origin
from normfold.core.plan import Plan, Replace, Respell
from normfold.core.premises import CALIBRATION_DATA, FIXED_STATISTICS, MEANINGFUL
from normfold.core.rules import BACKWARD, Target
from normfold.core.search import Search
from normfold.core.views import AffineOp, Groups, Node, Norm, NormKind, Spelling
from normfold.passes.convert.calibrated.design import SMALL, Design, Shape, design, evaluated
from normfold.passes.convert.calibrated.fitting import Fitting
from normfold.passes.convert.calibrated.moments import Gatherer, SampleMoments
from normfold.passes.convert.conversion import Asked, Conversion, Proposal
from normfold.passes.convert.grouping import grouped, ungroupable
from normfold.records import Certificate, Refusal

INERT: Final = 16.0
"""The epsilon, in variances of a channel, beside which an RMSNorm's mean square hardly counts."""
INERT_IF: Final = "the mean square of its standardised input is between 0 and 2 in every sample"
KINDS: Final[tuple[NormKind, ...]] = ("group", "instance", "layer", "rms")
GROUPED: Final = frozenset({"group", "instance"})
BY: Final[tuple[Spelling, ...]] = ("group", "instance", "layer")
"""Kinds that another kind's operation computes, too."""
EPSILON: Final = 1e-5
"""That of a norm whose source has none."""


@dataclass(frozen=True, slots=True)
class _Form:
    """The new norm: of groups of channels with all their positions, or of the channels of each position."""

    kind: NormKind
    shape: Shape
    grouped: bool


@dataclass(frozen=True, eq=False, slots=True)
class _Source:
    """An affine norm: the standardised channel times ``scale`` plus ``shift``; all ``[channels]``."""

    view: AffineOp
    axis: int
    mean: Array
    deviation: Array
    scale: Array
    shift: Array
    epsilon: float

    @staticmethod
    def of(view: AffineOp, channels: int, moments: SampleMoments | None) -> _Source | None:
        """Standardised by the statistics that it has stored, or else by those of the calibration inputs."""
        stored = view.statistics
        if view.axis is None or (stored is None and moments is None):
            return None
        if stored is not None:
            mean, deviation, epsilon = stored.mean, stored.deviation, stored.epsilon
        elif moments is not None:
            mean, deviation, epsilon = moments.mean, np.sqrt(moments.variance + EPSILON), EPSILON
        arrays = (mean, deviation, view.affine.scale, view.affine.shift)
        mean, deviation, scale, shift = (np.array(np.broadcast_to(one.reshape(-1), (channels,))) for one in arrays)
        return _Source(view, view.axis, mean, deviation, scale * deviation, shift + scale * mean, epsilon)


def _along(view: AffineOp) -> AffineOp:
    """``view`` with the axis of its channels, where its constants may lie along any and do along one."""
    varying = [k for k, size in enumerate(view.affine.shape, -len(view.affine.shape)) if size > 1]
    return replace(view, axis=varying[0]) if view.axis is None and len(varying) == 1 else view


def _channels(graph: Graph, view: AffineOp) -> int | None:
    shape = graph.shape(view.inputs[0])
    if shape is not None and view.axis is not None and isinstance(shape[view.axis], int):
        return int(shape[view.axis] or 0)
    return None if view.statistics is None else int(view.statistics.mean.size)


def _fitted(graph: Graph, norms: Sequence[Node], asked: Asked) -> Iterator[Proposal]:
    views = {node: _along(view) for node in norms if isinstance(view := graph.view(node), AffineOp)}
    per_position = asked.target not in GROUPED
    moments = _moments(graph, views, asked.fitting, per_position=per_position)
    for node, view in views.items():
        channels = _channels(graph, view) or 0
        refusal = None if view.axis is None else ungroupable(graph, view, view.axis, channels, asked)
        if refusal is not None:
            yield Proposal((node,), refusals=(refusal,))
            continue
        source = _Source.of(view, channels, moments.get(node))
        if source is None:
            because = f"{graph.label(node)} stores no statistics, and there are no calibration inputs to take them from"
            yield Proposal((node,), refusals=(Refusal(CALIBRATION_DATA, because),))
            continue
        groups = grouped(asked, channels) or 1
        yield _proposal(graph, source, moments.get(node), asked, groups)


def _moments(
    graph: Graph, views: dict[Node, AffineOp], fitting: Fitting, *, per_position: bool
) -> dict[Node, SampleMoments]:
    """What the norms read, where there are inputs to see it on."""
    if fitting.observer is None:
        return {}
    wanted = {node: Gatherer(view.axis or -1, per_position, fitting.seed) for node, view in views.items()}
    fitting.observer.observe(graph, wanted)
    return {node: gatherer.moments() for node, gatherer in wanted.items()}


def _proposal(graph: Graph, source: _Source, moments: SampleMoments | None, asked: Asked, groups: int) -> Proposal:
    fitting, weight, node = asked.fitting, source.scale**2, source.view.node
    kind: NormKind = next(one for one in KINDS if one == asked.target)
    form = _Form(kind, Shape(groups, source.epsilon, centred=kind != "rms"), grouped=kind in GROUPED)
    if moments is None:
        # Of a sample no more is known than of all: an epsilon stands in for the offsets.
        z = SampleMoments(np.zeros((1, len(weight))), np.ones((1, len(weight))))
        damped = replace(form.shape, epsilon=max(source.epsilon, fitting.max_offset**2))
        form = replace(form, shape=damped)
        found = evaluated(z, damped, np.ones(len(weight)), np.zeros(len(weight)))
    else:
        z = moments.standardised(source.mean, source.deviation)
        found = design(z, form.shape, weight, fitting.max_offset, seed=fitting.seed)
    form, sized = _as_large(source, found, form)
    plan, refusals = _absorbed(graph, source, sized, form)
    if plan is None:
        # Nothing absorbs scale and offset: the norm reads what its source read.
        form = replace(form, shape=replace(form.shape, epsilon=source.epsilon))
        found = evaluated(z, form.shape, source.deviation, source.mean)
        plan = Plan((_edit(_norm(graph, source, found, form)),))
        unable = graph.unable(plan)
        if unable is not None:
            return Proposal((node,), refusals=(unable, *refusals))
    r2 = None if moments is None else float((weight * found.r_squared).sum() / max(weight.sum(), SMALL))
    certificate = Certificate("calibrated", r2=r2, constant_share=found.constant_share)
    plan = replace(plan, rules=tuple(dict.fromkeys((*plan.rules, CONVERSION.name))))
    return Proposal((node,), plan, certificates={node: certificate})


def _as_large(source: _Source, found: Design, form: _Form) -> tuple[_Form, Design]:
    """The same norm of an input that is as large as its source's, in the geometric mean of its channels.

    A norm over several channels does not see a factor that they share, with the square of it in its epsilon. But what
    writes them keeps the size that it was trained with, and so do the steps of a training that goes on.
    """
    size = float(np.exp(np.log(np.maximum(source.deviation, SMALL)).mean()))
    shape = replace(form.shape, epsilon=form.shape.epsilon * size**2)
    return replace(form, shape=shape), replace(found, scale=found.scale * size, offset=found.offset * size)


def _absorbed(graph: Graph, source: _Source, found: Design, form: _Form) -> tuple[Plan | None, tuple[Refusal, ...]]:
    """The plan in which what writes the input absorbs scale and offset, or why nothing does."""
    view, scale = source.view, found.scale / source.deviation
    affine = _affine(source, scale, found.offset - scale * source.mean)
    start = Plan((_edit(_norm(graph, source, found, form)),))
    unable = graph.unable(start)
    if unable is not None:
        return None, (unable,)
    search = Search(graph)
    for way in search.route(Origin(view, start, Target(BACKWARD, view.inputs[0], affine))):
        if not way.inserts and graph.unable(way) is None:
            return way, ()
    return None, tuple(search.refusals)


def _edit(norm: Norm) -> Replace | Respell:
    by: Spelling | None = next((one for one in BY if one == norm.kind), None)
    return Replace(norm) if by is None else Respell(norm, by)


def _affine(source: _Source, scale: Array, shift: Array) -> Affine:
    spread = (-1, *[1] * (-1 - source.axis))
    return Affine(scale.reshape(spread), shift.reshape(spread))


def _norm(graph: Graph, source: _Source, found: Design, form: _Form) -> Norm:
    view, shape = source.view, form.shape
    because = f"{graph.label(view.node)} computes its statistics from each input, so it is not one affine map"
    return Norm(
        node=view.node,
        op=view.op,
        inputs=view.inputs,
        outputs=view.outputs,
        kind=form.kind,
        axes=tuple(range(source.axis, 0)) if form.grouped else (source.axis,),
        epsilon=shape.epsilon,
        core=Refusal(FIXED_STATISTICS, because),
        tail=_affine(source, source.scale * found.slope, source.scale * found.intercept + source.shift),
        holds_shift=True,
        largest=view.largest,
        groups=Groups(source.axis, shape.groups) if form.grouped else None,
    )


def _inert(graph: Graph, norms: Sequence[Node], asked: Asked) -> Iterator[Proposal]:
    """RMSNorms over all channels and positions, beside whose epsilon the mean square hardly counts."""
    for node in norms:
        view = graph.view(node)
        view = _along(view) if isinstance(view, AffineOp) else view
        source = _Source.of(view, _channels(graph, view) or 0, None) if isinstance(view, AffineOp) else None
        because = ""
        if not asked.fitting.allowed:
            because = f"{graph.label(node)} would become an inert norm, which is judged by the outputs of the model"
        elif asked.fitting.observer is not None or not asked.fitting.max_offset:
            because = "a norm was asked for that is fitted to calibration inputs, or live, and not an inert one"
        if source is None or because:
            because = because or f"{graph.label(node)} has no running statistics"
            yield Proposal((node,), refusals=(Refusal(MEANINGFUL, because),))
            continue
        ones = np.ones(len(source.scale))
        share = INERT / (1.0 + INERT)
        found = Design(ones, 0.0 * ones, ones * np.sqrt(1.0 + INERT), 0.0 * ones, ones, share)
        plan, refusals = _absorbed(graph, source, found, _Form("rms", Shape(1, INERT, centred=False), grouped=True))
        plan = None if plan is None else replace(plan, rules=(*plan.rules, INERT_RMS.name))
        certificate = Certificate("exact-if", INERT_IF, bound=0.5 / INERT, constant_share=share)
        yield Proposal((node,), plan, () if plan is not None else refusals, {node: certificate})


CONVERSION = Conversion(name="to_live", proposals=_fitted)
INERT_RMS = Conversion(name="to_live", proposals=_inert)
