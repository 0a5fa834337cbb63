"""``W (a x + d) + b = (W a)(x + d/a) + b = (W a) x + (b + W [d])``: a shift before an operation that pads with zeros.

The zeros of the padding are put around ``a x + d``, so they are zeros of ``x + d/a``, too: what is added before the
operation stays outside of its padding. ``[d]`` is the value that is ``d`` everywhere and zero in the padding; its
response ``W [d]`` is a constant of the output's size, the same inside and smaller or larger at the border.

Premises: ``a`` and ``d`` vary along the operation's input channels only. For the form with ``d/a``, no scale is zero or
so small that the quotient drowns what it is added to; for the form with the map, the sizes of the input are known.

Counter-example: ``a = 0``: the channel is the constant ``d``, which no ``x + d/a`` makes.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from normfold.core.algebra import Weight, Window
from normfold.core.algebra.affine import Array
from normfold.core.laws.law import Law
from normfold.core.premises import PADDED_SHIFT, PER_INPUT_CHANNEL

LAW = Law(
    name="padded",
    identity="W (a x + d) + b = (W a)(x + d/a) + b = (W a) x + (b + W [d])",
    premises=(PER_INPUT_CHANNEL, PADDED_SHIFT),
    counter_example="a = 0 makes the channel a constant, which no x + d/a is",
)

LARGEST = 1 << 25
"""Most elements of a response: it is added as a constant, and sizes may be any that a file states."""
DROWNED = 2.0**14
"""Largest ``|d/a|`` that is added to a value: norms keep what they read within a few hundred."""


def shift_before(scale: Array, shift: Array, limit: float = DROWNED) -> Array | None:
    """``d/a``, at most ``limit``; ``None`` where a channel has no such quotient. Zero shifts need no scale."""
    scale, shift = np.broadcast_arrays(scale, shift)
    if bool(((scale == 0) & (shift != 0)).any()):
        return None
    quotient = np.divide(shift, scale, out=np.zeros(shift.shape), where=shift != 0)
    return quotient if float(np.abs(quotient).max(initial=0.0)) <= limit else None


def response_map(weight: Weight, shift: Array, window: Window, sizes: Sequence[int]) -> Array | None:
    """``W [d]``, [out, *output sizes], for an input of spatial ``sizes``; ``shift`` is [in] or [].

    ``None`` where the output has no elements, or more than `LARGEST`.
    """
    counts = [_positions(window, axis, size) for axis, size in enumerate(sizes)]
    if min(counts) < 1 or prod(counts) * weight.out_channels > LARGEST:
        return None
    reach = [_taps_inside(window, axis, size) for axis, size in enumerate(sizes)]
    full = np.broadcast_to(shift, (weight.in_channels,)).reshape(weight.groups, weight.in_per_group)
    summed: Array = np.einsum("goi...,gi->go...", weight.canonical(), full)
    response = summed.reshape(weight.out_channels, *weight.taps)
    for inside in reach:
        # Each turn takes the first axis of taps away and puts the positions along it last.
        response = np.asarray(np.tensordot(response, inside, axes=(1, 1)), dtype=np.float64)
    return response


def _positions(window: Window, axis: int, size: int) -> int:
    """How many elements the output has along ``axis``; none where that is below one."""
    return (size + window.surplus(axis) - 1) // window.strides[axis] + 1


def _taps_inside(window: Window, axis: int, size: int) -> Array:
    """1 where a tap at an output position falls on the input of ``size``, 0 where on padding: [positions, taps]."""
    starts = np.arange(_positions(window, axis, size)) * window.strides[axis]
    places = starts[:, None] + np.asarray(window.offsets(axis))
    return np.asarray((places >= 0) & (places < size), dtype=np.float64)
