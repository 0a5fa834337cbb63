"""``W (a x + d) + Wb + (R h + Rb) = (W a) x + (Wb + W d) + (R h + Rb)``: into what a recurrence does to its input.

It holds for every gate, step and direction, whatever comes behind the sum: activations, clips, peepholes.

Premises: ``a`` and ``d`` vary along the features of the input only, not along its time. The shift goes into ``Wb``, the
bias of the input, and never into ``Rb``, that of the state.

Counter-example: a GRU multiplies ``R h + Rb`` by a gate before it adds the rest: ``W d`` in ``Rb`` would be multiplied,
too.
"""

from __future__ import annotations

import numpy as np

from normfold.core.algebra import Weight
from normfold.core.algebra.affine import Array
from normfold.core.laws.law import Law
from normfold.core.premises import PER_INPUT_CHANNEL

LAW = Law(
    name="gates",
    identity="W (a x + d) + Wb + (R h + Rb) = (W a) x + (Wb + W d) + (R h + Rb)",
    premises=(PER_INPUT_CHANNEL,),
    counter_example="W d in the bias of the state, which a GRU multiplies by a gate",
)


def push_into_gates(weight: Weight, bias: Array | None, scale: Array, shift: Array) -> tuple[Weight, Array | None]:
    """The weight and bias that take ``x`` instead of ``scale * x + shift``, which are [features] or [].

    The groups of ``weight`` are directions, each of which reads all features; ``bias`` is [out], and stays ``None``
    where there is none and nothing to add.
    """
    columns, values = (np.tile(np.broadcast_to(k, weight.in_per_group), weight.groups) for k in (scale, shift))
    added = weight.contract(values)
    if bias is not None:
        added = bias + added
    return weight.scale_columns(columns), added if bias is not None or added.any() else None
