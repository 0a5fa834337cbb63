"""RMSNorm to its scale, where another RMSNorm divides by the size of what is left of it: its own division goes.

What it does:
    ``RMS(W (x / m * gamma))`` is ``RMS(W (x * gamma))`` up to epsilon: a number that a position is divided by passes
    what is linear in its channels, without a bias, and activations that are positively homogeneous, and the next norm
    of the same position divides it out. What stays of the first norm is its scale, which is folded.

Exact if:
    The mean square of its input is never less than the least that calibration inputs have. The error is then at most
    ``e / 2 * |1 / s - 1 / (s * (m + e'))|`` for the norm's own epsilon ``e'`` and mean square ``m`` of its input, and
    those of the next norm, ``e`` and ``s``. Nothing bounds it where the input is small, so that no fold does this.

Refused when:
    Something else than such operations, up to another RMSNorm of the same channels, reads it (``linear-consumer``,
    ``not-output``), it has a bias (``linear-consumer``), its scale is not its own (``room``), there are no inputs to
    see its size on (``calibration-data``), or they are too small for the bound to mean anything (``bounded-error``).

Source: Graef et al., FlashNorm (arXiv 2407.09577), and `normfold.core.laws.homogeneous`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Final

import numpy as np

from normfold.core.algebra import Affine
from normfold.core.algebra.moves import followed
from normfold.core.graph import Graph
from normfold.core.plan import Plan, Respell
from normfold.core.premises import BOUNDED_ERROR, CALIBRATION_DATA, LINEAR_CONSUMER, ONE_AXIS, ROOM
from normfold.core.views import AffineOp, Linear, Moving, Node, Norm, PositiveHomogeneous, Value, View
from normfold.passes.convert.calibrated.moments import Gatherer
from normfold.passes.convert.conversion import Asked, Conversion, Proposal
from normfold.records import Certificate, Refusal

MOST: Final = 1e-3
"""The largest bound that a certificate states."""
DEPTH: Final = 32
"""Most operations between two norms."""
EPSILON: Final = float(np.finfo(np.float32).eps)
"""That of a norm whose epsilon is that of its type."""


@dataclass(frozen=True, eq=False, slots=True)
class _Pair:
    """A norm, and those that divide what it makes by its size."""

    view: Norm
    axis: int
    next: tuple[Norm, ...]


class _StopError(Exception):
    """Something on the way sees the size."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__()
        self.refusal = refusal


def _proposals(graph: Graph, norms: Sequence[Node], asked: Asked) -> Iterator[Proposal]:
    for node in norms:
        # One by one: the next norm of one may be the first of another, whose size is then another.
        found = _pair(graph, graph.view(node))
        yield _judged(graph, found, asked) if isinstance(found, _Pair) else Proposal((node,), refusals=(found,))


def _pair(graph: Graph, view: View) -> _Pair | Refusal:
    label = graph.label(view.node)
    if not isinstance(view, Norm) or view.axes is None or len(view.axes) != 1 or view.groups is not None:
        return Refusal(ONE_AXIS, f"{label} is not over one axis")
    if view.tail is None and not view.parts:
        return Refusal(ROOM, f"the scale of {label} is not its own")
    if view.tail is not None and view.tail.shifts:
        return Refusal(LINEAR_CONSUMER, f"{label} adds a bias, which is not divided by the size of its input")
    (axis,) = view.axes
    try:
        ends = tuple(_ends(graph, view.outputs[0], axis, DEPTH))
    except _StopError as stop:
        return stop.refusal
    because = f"nothing reads what {label} makes"
    return _Pair(view, axis, ends) if ends else Refusal(LINEAR_CONSUMER, because)


def _ends(graph: Graph, value: Value, axis: int, depth: int) -> Iterator[Norm]:
    """The norms that divide by the size of ``value``, whose channels are along ``axis`` (negative)."""
    escape = graph.escapes(value)
    if escape is not None:
        raise _StopError(escape)
    shape = graph.shape(value)
    width = None if shape is None else shape[axis]
    readers = dict.fromkeys(reader for reader, _ in graph.consumers(value))
    inside = {part for reader in readers for part in getattr(graph.view(reader), "parts", ())}
    for reader in (one for one in readers if one not in inside):
        view = graph.view(reader)
        after = _after(view, axis, width) if depth and not view.refusals else None
        if isinstance(view, Norm) and view.kind == "rms" and view.axes == (axis,) and view.groups is None:
            yield view
        elif after is None or len(view.outputs) != 1:
            because = f"{graph.label(reader)} reads what the norm makes, and would see its size"
            raise _StopError(Refusal(LINEAR_CONSUMER, because))
        else:
            yield from _ends(graph, view.outputs[0], after, depth - 1)


def _after(view: View, axis: int, width: object) -> int | None:
    """Where the channels along ``axis`` are behind ``view``, if a size passes it position by position; else None."""
    match view:
        case PositiveHomogeneous():
            return axis
        case AffineOp(affine=affine):
            return None if affine.shifts else axis
        case Moving(moves=(move,)) if isinstance(width, int):
            return followed(move, axis, width, backward=False)
        case Linear(bias=bias, window=window, in_axes=inner, out_axes=(out,)):
            alone = window is None or prod(window.kernel) == 1
            return out if alone and view.whole_taps and inner == (axis,) and (bias is None or not bias.any()) else None
    return None


def _judged(graph: Graph, pair: _Pair, asked: Asked) -> Proposal:
    node, observer = pair.view.node, asked.fitting.observer
    label = graph.label(node)
    if observer is None:
        because = f"there are no inputs that say how small the input of {label} may be"
        return Proposal((node,), refusals=(Refusal(CALIBRATION_DATA, because),))
    wanted = {one.node: Gatherer(one.axes[0], per_position=True) for one in (pair.view, *pair.next) if one.axes}
    observer.observe(graph, wanted)
    least, bound = _bound(pair, wanted)
    if not bound <= MOST:
        because = f"the mean square of the input of {label} is as small as {least:.3g}: the error may be {bound:.3g}"
        return Proposal((node,), refusals=(Refusal(BOUNDED_ERROR, because),))
    plan = Plan((Respell(_scale(pair), "static"),), rules=(CONVERSION.name,))
    unable = graph.unable(plan)
    if unable is not None:
        return Proposal((node,), refusals=(unable,))
    certificate = Certificate("exact-if", f"the mean square of its input is at least {least:.3g}", bound)
    return Proposal((node,), plan, certificates={node: certificate})


def _bound(pair: _Pair, seen: dict[Node, Gatherer]) -> tuple[float, float]:
    """The least mean square of the first norm's input, and the largest error that then follows."""
    own = seen[pair.view.node].moments().second.mean(1) + _epsilon(pair.view)
    factor = np.abs(1.0 - 1.0 / np.array([own.min(), own.max()])).max()
    # Where all channels are zero they stay so, whatever they are divided by.
    sizes = [(one, seen[one.node].moments().second.mean(1)) for one in pair.next]
    errors = [0.5 * _epsilon(one) * factor / size[size > 0].min(initial=1.0) for one, size in sizes]
    return float(own.min() - _epsilon(pair.view)), float(max(errors))


def _epsilon(view: Norm) -> float:
    return EPSILON if view.epsilon is None else view.epsilon


def _scale(pair: _Pair) -> AffineOp:
    view = pair.view
    return AffineOp(
        node=view.node,
        op="Mul",
        inputs=view.inputs,
        outputs=view.outputs,
        affine=view.tail or Affine.of(),  # one that is written out is followed by its scale
        holds_scale=True,
        holds_shift=True,
        axis=pair.axis,
        largest=view.largest,
    )


CONVERSION = Conversion(name="redundant", proposals=_proposals)
