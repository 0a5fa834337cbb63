"""Fold the subtraction of a mean over channels into the embedding table that they are read from.

What it does:
    Subtracts from every row of the table its mean: what is read then has the mean zero.

When it holds:
    The mean is taken along the last axis of a row.

Example:
    ``Gather -> LayerNormalization`` becomes ``Gather -> LayerNormalization``, which finds nothing to subtract.

Refused when:
    The mean is taken along another axis (``per-output-channel``), or the new table does not fit its type
    (``representable``).

Law: `normfold.core.laws.rows`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from normfold.core.algebra import Centring
from normfold.core.laws import rows
from normfold.core.premises import PER_OUTPUT_CHANNEL, REPRESENTABLE
from normfold.core.rules.rule import BACKWARD, Carry, Rule, Step
from normfold.core.views import Embedding


def _per_output_channel(carry: Carry[Embedding, Centring]) -> str | None:
    sizes = carry.view.table.sizes
    if carry.map.axis == -1 and sizes and sizes[-1] == carry.map.size:
        return None
    return f"the mean is not taken along the rows of {carry.label}, of shape {list(sizes)}"


def _representable(carry: Carry[Embedding, Centring]) -> str | None:
    # A mean is no larger than what it is taken of, so that twice that is the most that can be left.
    view = carry.view
    if 2 * view.table.magnitude() <= view.largest or view.table.centre_rows().magnitude() <= view.largest:
        return None
    return f"the centred table of {carry.label} exceeds {view.largest:.5g}, the largest number of its type"


def _steps(carry: Carry[Embedding, Centring]) -> Iterable[Step]:
    yield Step(view=replace(carry.view, table=carry.view.table.centre_rows()))


RULE = Rule(
    name="fold_centring_into_embedding",
    law=rows.LAW,
    map=Centring,
    view=Embedding,
    directions=(BACKWARD,),
    premises=((PER_OUTPUT_CHANNEL, _per_output_channel), (REPRESENTABLE, _representable)),
    steps=_steps,
)
