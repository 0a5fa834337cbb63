"""``a*(W x + b) + d = (a W) x + (a b + d)``: an affine map moves into the linear operation before it.

Premises: ``a`` and ``d`` vary along the operation's output channels only. Any padding, stride, dilation and
group will do, since the map acts on what the operation has already summed.

Counter-example: ``MatMul`` to ``[N, C, L]`` followed by a norm over ``C``. The weight's output axis is ``L``,
so scaling its rows by ``a[C]`` is another function even where ``C == L``.

Source: Jacob et al. 2017, arXiv 1712.05877, section 3.2 (batch normalisation folding).
"""

from __future__ import annotations

import numpy as np

from normfold.core.algebra import Affine, Weight, trim
from normfold.core.algebra.affine import Array
from normfold.core.laws.law import Law
from normfold.core.premises import PER_OUTPUT_CHANNEL

LAW = Law(
    name="backward",
    identity="a*(W x + b) + d = (a W) x + (a b + d)",
    premises=(PER_OUTPUT_CHANNEL,),
    counter_example="MatMul -> norm over an axis that is not the matrix product's output axis",
)


def channel_vector(array: Array, axes: tuple[int, ...], sizes: tuple[int, ...]) -> Array | None:
    """``array`` as one number for each channel, or ``None`` where it varies along another axis.

    ``axes`` (negative) of a value, flattened in that order, are its channels, ``sizes`` how many there are
    along each. Gives ``[prod(sizes)]``, or ``[]`` for a scalar.
    """
    if array.ndim == 0:
        return array
    others = [k for k in range(-array.ndim, 0) if k not in axes]
    if any(array.shape[k] != 1 for k in others):
        return None
    rank = max(array.ndim, *(-axis for axis in axes))
    full = array.reshape((1,) * (rank - array.ndim) + array.shape)
    picked = full.transpose([*(k for k in range(-rank, 0) if k not in axes), *axes]).reshape(
        [full.shape[k] for k in axes]
    )
    if any(have not in (1, size) for have, size in zip(picked.shape, sizes, strict=True)):
        return None
    return np.broadcast_to(picked, sizes).reshape(-1)


def push_into_rows(weight: Weight, bias: Array | None, affine: Affine, rows: Array) -> tuple[Weight, Array | None]:
    """The weight and bias of ``affine o (W x + bias)``.

    ``rows`` is the affine's scale for each output channel (see `channel_vector`); ``bias`` is right-aligned with
    the output, and stays ``None`` where there is none and the affine has no shift.
    """
    if bias is None and not affine.shifts:
        return weight.scale_rows(rows), None
    before = np.zeros(()) if bias is None else bias
    return weight.scale_rows(rows), trim(affine.scale * before + affine.shift)
