"""Where maps set out from. A new use of a route is a new origin; the walk is `normfold.core.search`'s."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from normfold.core.algebra import Affine, Shuffle
from normfold.core.graph import Graph
from normfold.core.plan import Bypass, Plan, SetView
from normfold.core.rules import BACKWARD, FORWARD, Target
from normfold.core.views import AffineOp, Linear, Moving, Norm, View


@dataclass(frozen=True, eq=False, slots=True)
class Origin:
    """A map that leaves the operation of ``view``: what is edited there, and where the map goes first."""

    view: View
    plan: Plan
    target: Target


@dataclass(frozen=True, eq=False, slots=True)
class Use:
    """A use of routes that pays by itself: which maps set out, and which plans are worth carrying out."""

    origins: Callable[[View], Iterable[Origin]]
    worth: Callable[[Graph, Plan], bool]


def affine_folds(view: View) -> Iterator[Origin]:
    """An affine operation, to its producer or else its consumers; the scale and shift of a norm, to its consumers."""
    if isinstance(view, AffineOp) and not view.affine.identity:
        source, result = view.inputs[0], view.outputs[0]
        yield Origin(view, Plan((Bypass(view.node, source, same=True),)), Target(BACKWARD, source, view.affine))
        yield Origin(view, Plan((Bypass(view.node, source),)), Target(FORWARD, result, view.affine))
    to_be_emitted = isinstance(view, Norm) and view.parts and view.unemitted is None
    if isinstance(view, Norm) and not to_be_emitted and view.tail is not None and not view.tail.identity:
        start = Plan((SetView(replace(view, tail=Affine.of())),))
        yield Origin(view, start, Target(FORWARD, view.outputs[0], view.tail))


def _bias(view: View) -> Iterator[Origin]:
    """The bias of a matrix product, or an addition of constants."""
    if isinstance(view, Linear) and view.window is None and view.bias is not None and view.bias.any():
        start, shift = Plan((SetView(replace(view, bias=None)),)), view.bias
    elif isinstance(view, AffineOp) and view.affine.shifts and not view.affine.scales:
        start, shift = Plan((Bypass(view.node, view.inputs[0]),)), view.affine.shift
    else:
        return
    yield Origin(view, start, Target(FORWARD, view.outputs[0], Affine.of(shift=shift)))


def _only_joins_additions(graph: Graph, plan: Plan) -> bool:
    """Whether a shift ends only where constants are added anyway: elsewhere, it would cost again what it saves."""

    def adds(view: View) -> bool:
        return view.bias is not None if isinstance(view, Linear) else isinstance(view, AffineOp) and view.affine.shifts

    return not plan.inserts and all(adds(graph.view(node)) for node in plan.into)


def _shuffle(view: View) -> Iterator[Origin]:
    """An operation that only puts channels in another order."""
    if isinstance(view, Moving) and len(view.moves) == 1 and isinstance(view.moves[0], Shuffle):
        start = Plan((Bypass(view.node, view.inputs[0]),))
        yield Origin(view, start, Target(FORWARD, view.outputs[0], view.moves[0]))


BIASES = Use(_bias, _only_joins_additions)
"""One addition less for each bias that goes where others are added: along a residual stream, mostly."""
SHUFFLES = Use(_shuffle, lambda _graph, _plan: True)
"""One operation less, and weights in another order."""
