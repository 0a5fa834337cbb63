"""``a (s (q - z)) c = (a s c) (q - z)``: a scale of an output, and one of a block of inputs, is one of the block.

A weight of codes with a scale for each block of inputs of an output takes any scale of the output, of either sign; the
codes ``q`` and the zero points ``z`` stay as they are.

Premises: all inputs in a block have one scale; the new scale is a normal number of its type.

Counter-example: two inputs of one block with the scales 1 and 3: no one number times ``[1, 1]`` is ``[1, 3]``.

Source: ONNX Runtime, com.microsoft.MatMulNBits.
"""

from __future__ import annotations

import numpy as np

from normfold.core.algebra.affine import Array
from normfold.core.laws.law import Law
from normfold.core.premises import NORMAL_SCALE, SAME_CODES

LAW = Law(
    name="blocks",
    identity="a (s (q - z)) c = (a s c) (q - z)",
    premises=(SAME_CODES, NORMAL_SCALE),
    counter_example="two scales for the inputs of one block",
)


def rescale_blocks(scales: Array, size: int, rows: Array | None, columns: Array | None) -> Array | None:
    """``scales`` [out, blocks] times ``rows`` [out] and ``columns`` [in], which must not differ within ``size``."""
    out = scales if rows is None else scales * rows[:, None]
    if columns is None:
        return out
    full = np.concatenate([columns, np.full(scales.shape[1] * size - columns.size, columns[-1])]).reshape(-1, size)
    return out * full[:, 0] if bool((full == full[:, :1]).all()) else None
