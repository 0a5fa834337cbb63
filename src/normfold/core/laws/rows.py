"""``a*E[i] + d = (a E + d)[i]``: an affine map moves into the table that an index is looked up in.

Premises: ``a`` and ``d`` vary along the axes of a row only, and every output is a row as it stands: nothing is added
up, and no index stands for anything but its row.

Counter-example: ``a`` along the tokens of ``[N, T, D]``, where ``T`` is as large as ``D``: the same row stands at many
tokens. An average of rows takes the shift only where no bag is empty, since that of an empty bag is zero.
"""

from __future__ import annotations

from normfold.core.algebra import Affine, Table
from normfold.core.laws.law import Law
from normfold.core.premises import PER_OUTPUT_CHANNEL

LAW = Law(
    name="rows",
    identity="a*E[i] + d = (a E + d)[i]",
    premises=(PER_OUTPUT_CHANNEL,),
    counter_example="a scale along the tokens, of which many have one row",
)


def map_rows(table: Table, affine: Affine) -> Table | None:
    """The table of the mapped rows; ``None`` where the map varies along another axis than those of a row."""
    if len(affine.shape) > len(table.sizes):
        return None
    ends = table.sizes[len(table.sizes) - len(affine.shape) :]
    if any(have not in (1, size) for have, size in zip(affine.shape, ends, strict=True)):
        return None
    return table.mapped(affine)
