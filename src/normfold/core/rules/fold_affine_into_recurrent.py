"""Fold an affine map into the input weights of the LSTM, GRU or RNN that consumes its output.

What it does:
    Multiplies the columns of the input weight, those of every gate and direction, by the map's scale, and adds what the
    shift contributes to the input half of the bias. The recurrent weight and its bias stay.

When it holds:
    The map varies along the features of the sequence only, and the operation reads its output as the sequence.

Example:
    ``BatchNormalization -> Transpose -> LSTM`` becomes ``Transpose -> LSTM``.

Refused when:
    The map arrives at an initial state (``linear-consumer``) or varies along another axis (``per-input-channel``), a
    constant is not a number (``finite``), there is a shift and no place for a bias (``needs-structure``), or the new
    weight does not fit its type (``representable``).

Law: `normfold.core.laws.gates`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from normfold.core.algebra import Affine
from normfold.core.algebra.affine import Array
from normfold.core.laws import gates
from normfold.core.laws.backward import channel_vector
from normfold.core.premises import FINITE, LINEAR_CONSUMER, NEEDS_STRUCTURE, PER_INPUT_CHANNEL, REPRESENTABLE
from normfold.core.rules.rule import FORWARD, Carry, Rule, Step
from normfold.core.rules.shared import UNSEEN, finite
from normfold.core.views import Recurrent


def _sequence(carry: Carry[Recurrent, Affine]) -> str | None:
    return None if carry.port == 0 else f"{carry.label} reads it as an initial state, in which it is not linear"


def _features(carry: Carry[Recurrent, Affine]) -> tuple[Array, Array] | None:
    """Scale and shift for each feature."""
    sizes = (carry.view.weights[0].in_per_group,)
    scale, shift = (channel_vector(k, (-1,), sizes) for k in (carry.map.scale, carry.map.shift))
    return None if scale is None or shift is None else (scale, shift)


def _per_input_channel(carry: Carry[Recurrent, Affine]) -> str | None:
    if _features(carry) is not None:
        return None
    return f"its constants do not follow the {carry.view.weights[0].in_per_group} features that {carry.label} reads"


def _needs_structure(carry: Carry[Recurrent, Affine]) -> str | None:
    if carry.view.bias_slot or not carry.map.shifts:
        return None
    return f"{carry.label} has no bias to take the shift"


def _folded(carry: Carry[Recurrent, Affine]) -> Recurrent:
    view, features = carry.view, _features(carry)
    if features is None:
        raise ValueError("per-input-channel does not hold")
    pairs = zip(view.weights, view.biases, strict=True)
    weights, biases = zip(*(gates.push_into_gates(weight, bias, *features) for weight, bias in pairs), strict=True)
    return replace(view, weights=weights, biases=biases)


def _representable(carry: Carry[Recurrent, Affine]) -> str | None:
    view = _folded(carry)
    small = all(weight.gain * UNSEEN <= view.largest or weight.magnitude() <= view.largest for weight in view.weights)
    biases = (float(np.abs(bias).max(initial=0.0)) for bias in view.biases if bias is not None)
    if small and all(bias <= view.largest for bias in biases):
        return None
    return f"the folded constants of {carry.label} exceed {view.largest:.5g}, the largest number of their type"


def _steps(carry: Carry[Recurrent, Affine]) -> Iterable[Step]:
    yield Step(view=_folded(carry))


RULE = Rule(
    name="fold_affine_into_recurrent",
    law=gates.LAW,
    map=Affine,
    directions=(FORWARD,),
    view=Recurrent,
    premises=(
        (FINITE, finite),
        (LINEAR_CONSUMER, _sequence),
        (PER_INPUT_CHANNEL, _per_input_channel),
        (NEEDS_STRUCTURE, _needs_structure),
        (REPRESENTABLE, _representable),
    ),
    steps=_steps,
)
