"""Fold an affine map into the table of the embedding that produces its input.

What it does:
    Multiplies the rows of the table by the map's scale and adds its shift. The norm is gone.

When it holds:
    The map varies along the axes of a row only. The table is constant, read by index along its first axis, and by
    nothing else.

Example:
    ``Gather(table, x) -> Mul -> Add`` becomes ``Gather(table, x)``.

Refused when:
    The map varies along another axis (``per-output-channel``), a constant of the map is not a number (``finite``), or
    the new table does not fit its type (``representable``).

Law: `normfold.core.laws.rows`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from normfold.core.algebra import Affine
from normfold.core.laws import rows
from normfold.core.premises import FINITE, PER_OUTPUT_CHANNEL, REPRESENTABLE
from normfold.core.rules.rule import BACKWARD, Carry, Rule, Step
from normfold.core.rules.shared import UNSEEN, finite
from normfold.core.views import Embedding


def _folded(carry: Carry[Embedding, Affine]) -> Embedding | None:
    table = rows.map_rows(carry.view.table, carry.map)
    return None if table is None else replace(carry.view, table=table)


def _per_output_channel(carry: Carry[Embedding, Affine]) -> str | None:
    if _folded(carry) is not None:
        return None
    return f"its constants do not follow the rows of {carry.label}, of shape {list(carry.view.table.sizes)}"


def _representable(carry: Carry[Embedding, Affine]) -> str | None:
    view = _folded(carry)
    if view is None:
        raise ValueError("per-output-channel does not hold")
    gain, shift = (float(np.abs(k).max(initial=0.0)) for k in (view.table.affine.scale, view.table.affine.shift))
    if gain * UNSEEN + shift <= view.largest or view.table.magnitude() <= view.largest:
        return None
    return f"the folded table of {carry.label} exceeds {view.largest:.5g}, the largest number of its type"


def _steps(carry: Carry[Embedding, Affine]) -> Iterable[Step]:
    yield Step(view=_folded(carry))


RULE = Rule(
    name="fold_affine_into_embedding",
    law=rows.LAW,
    map=Affine,
    directions=(BACKWARD,),
    view=Embedding,
    premises=((FINITE, finite), (PER_OUTPUT_CHANNEL, _per_output_channel), (REPRESENTABLE, _representable)),
    steps=_steps,
)
