"""Fold an addition of constants into the bias of the operation before it.

What it does:
    A Conv, ConvTranspose or Gemm takes the constants of the Add or Sub after it into its bias. An addition alone is no
    norm, so no decision speaks of it.

When it holds:
    The constants vary along the operation's output channels only, and nothing else reads its output. A MatMul has no
    bias: the addition after it is its bias already.

Example:
    ``Conv -> Add`` becomes ``Conv``.

Refused when:
    The constants vary along another axis (``per-output-channel``), one of them is not a number (``finite``), the new
    bias does not fit the type (``representable``), something else reads the output (``single-use``, ``not-output``), or
    the two stand in different graph bodies (``same-scope``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from normfold.core.algebra import Affine
from normfold.core.graph import Graph, maker
from normfold.core.laws import backward
from normfold.core.plan import Bypass, Change, Plan, SetView
from normfold.core.premises import NOT_OUTPUT, SAME_SCOPE, SINGLE_USE
from normfold.core.rules import fold_affine_into_producer
from normfold.core.rules.rule import BACKWARD, Carry, Place, Rewrite
from normfold.core.rules.shared import not_output, same_scope, single_use
from normfold.core.views import AffineOp, Linear, Value, View

_FOLD = fold_affine_into_producer.RULE


@dataclass(frozen=True, eq=False, slots=True)
class Shifted(Place[AffineOp]):
    """An addition of constants and the linear operation before it, which has a bias or room for one."""

    linear: Linear

    @property
    def parts(self) -> tuple[View, ...]:
        """Both."""
        return (self.view, self.linear)

    @property
    def changing(self) -> tuple[Value, ...]:
        """What the linear operation makes."""
        return self.linear.outputs

    @property
    def carry(self) -> Carry[Linear, Affine]:
        """The addition, arrived at the linear operation."""
        return Carry(self.graph, self.linear, BACKWARD, self.view.affine)


def _places(graph: Graph, view: AffineOp) -> Iterable[Shifted]:
    if view.holds_scale or view.affine.scales or not view.affine.shifts:
        return
    linear = maker(graph, view.inputs[0])
    if isinstance(linear, Linear) and linear.bias_slot:
        yield Shifted(graph, view, linear)


def _plan(place: Shifted) -> Plan:
    (step,) = _FOLD.steps(place.carry)
    absorbed = place.linear if step.view is None else step.view
    return Plan(
        (SetView(absorbed), Bypass(place.view.node, place.view.inputs[0], same=True)),
        changed=tuple(Change(value, place.view.affine) for value in place.changing),
        into=(absorbed.node,),
        rules=(RULE.name,),
    )


RULE = Rewrite(
    name="fold_shift_into_producer",
    law=backward.LAW,
    view=AffineOp,
    places=_places,
    premises=(
        (SINGLE_USE, single_use),
        (SAME_SCOPE, same_scope),
        (NOT_OUTPUT, not_output),
        *((premise, lambda place, test=test: test(place.carry)) for premise, test in _FOLD.premises),
    ),
    plan=_plan,
)
