"""Let an offset that is the same for all channels end at a norm that subtracts their mean.

What it does:
    Nothing: the norm makes the same of its input with the offset as without, whatever the offset is.

When it holds:
    The norm takes its mean over just those channels, at each position by itself.

Example:
    ``MatMul -> (LayerNormalization, LayerNormalization)`` becomes
    ``MatMul -> (LayerNormalization, LayerNormalization)``: where the matrix product is to write centred channels for
    one norm, the other one does not see the difference.

Refused when:
    The norm takes no mean, or one over other elements (``same-in-group``).

Law: `normfold.core.laws.means`.
"""

from __future__ import annotations

from collections.abc import Iterable

from normfold.core.algebra import Offset
from normfold.core.laws import means
from normfold.core.premises import SAME_IN_GROUP
from normfold.core.rules.rule import FORWARD, Carry, Rule, Step
from normfold.core.views import Norm


def _same_in_group(carry: Carry[Norm, Offset]) -> str | None:
    if carry.view.kind in ("layer", "mean-variance") and carry.view.axes == (carry.map.axis,):
        return None
    return f"{carry.label} does not subtract the mean of just those channels that get the same offset"


def _steps(_: Carry[Norm, Offset]) -> Iterable[Step]:
    yield Step()


RULE = Rule(
    name="fold_offset_into_norm",
    law=means.LAW,
    map=Offset,
    view=Norm,
    directions=(FORWARD,),
    premises=((SAME_IN_GROUP, _same_in_group),),
    steps=_steps,
)
