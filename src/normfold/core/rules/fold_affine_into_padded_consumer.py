"""Fold an affine map into a convolution that pads, and put what its shift does there beside it.

What it does:
    Multiplies the input channels of the weight of a Conv or ConvTranspose that pads by the map's scale. The shift does
    not reach the zeros of the padding, so no bias says what it does; it becomes one addition: of ``d/a`` before the
    operation, or of the operation's response to the shift, a constant of the output's size, after it.

When it holds:
    The map varies along the operation's input channels only and has a shift. The addition before needs scales that are
    not zero and not tiny beside the shift, the one after a Conv whose input has known sizes. Since an operation is
    inserted, the cost table has to say that it costs less than what goes.

Example:
    ``Relu -> BatchNormalization -> Conv(pads=1)`` becomes ``Relu -> Add -> Conv(pads=1)``.

Refused when:
    The map varies along another axis (``per-input-channel``), neither form is there (``padded-shift``), a constant is
    not a number (``finite``), or the new weight does not fit its type (``representable``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from normfold.core.algebra import Affine
from normfold.core.algebra.affine import Array
from normfold.core.laws import padded
from normfold.core.laws.forward import spread
from normfold.core.laws.padded import DROWNED, response_map, shift_before
from normfold.core.plan import Insert
from normfold.core.premises import FINITE, PADDED_SHIFT, PER_INPUT_CHANNEL, REPRESENTABLE
from normfold.core.rules.rule import FORWARD, Carry, Rule, Step
from normfold.core.rules.shared import finite, input_columns, linear_fits, per_input_channel
from normfold.core.views import Linear


def _applies(carry: Carry[Linear, Affine]) -> bool:
    return carry.map.shifts and not carry.view.whole_taps


def _before(carry: Carry[Linear, Affine]) -> Affine | None:
    """What to add before the operation."""
    view, columns = carry.view, input_columns(carry)
    quotient = None if columns is None else shift_before(*columns, min(DROWNED, view.largest))
    if quotient is None:
        return None
    channels = np.broadcast_to(quotient, (view.weight.in_channels,))
    return Affine.of(shift=spread(channels, view.in_axes, view.in_sizes))


def _sizes(carry: Carry[Linear, Affine]) -> list[int] | None:
    """Spatial sizes of the input of a Conv, where all are known."""
    view, shape = carry.view, carry.graph.shape(carry.view.inputs[0])
    if view.window is None or shape is None:
        return None
    sizes = [dim for dim in shape[2:] if isinstance(dim, int)]
    return sizes if len(shape) == 2 + len(view.window.kernel) == 2 + len(sizes) else None


def _after(carry: Carry[Linear, Affine]) -> Array | None:
    """What to add after the operation."""
    view, columns, sizes = carry.view, input_columns(carry), _sizes(carry)
    if view.window is None or columns is None or sizes is None:
        return None
    response = response_map(view.weight, columns[1], view.window, sizes)
    return response if response is not None and float(np.abs(response).max()) <= view.largest else None


def _padded_shift(carry: Carry[Linear, Affine]) -> str | None:
    if not _applies(carry) or _before(carry) is not None or _after(carry) is not None:
        return None
    return (
        f"{carry.label} pads with zeros and the sizes of its input are not all known, or too large; before it, the "
        f"shift cannot be without the scale, which is zero somewhere, or {DROWNED:.5g} times smaller"
    )


def _scaled(carry: Carry[Linear, Affine]) -> Linear:
    columns = input_columns(carry)
    if columns is None:
        raise ValueError("per-input-channel does not hold")
    return replace(carry.view, weight=carry.view.weight.scale_columns(columns[0]))


def _representable(carry: Carry[Linear, Affine]) -> str | None:
    return linear_fits(_scaled(carry), carry.label) if _applies(carry) else None


def _steps(carry: Carry[Linear, Affine]) -> Iterable[Step]:
    if not _applies(carry):
        return
    view, scaled = carry.view, _scaled(carry)
    before = _before(carry)
    if before is not None:
        yield Step(view=scaled, inserted=(Insert.of(view.inputs[0], before, reader=view.node),))
    after = _after(carry)
    if after is not None:
        yield Step(view=scaled, inserted=(Insert.of(view.outputs[0], Affine.of(shift=after)),))


RULE = Rule(
    name="fold_affine_into_padded_consumer",
    law=padded.LAW,
    map=Affine,
    directions=(FORWARD,),
    view=Linear,
    premises=(
        (FINITE, finite),
        (PER_INPUT_CHANNEL, per_input_channel),
        (PADDED_SHIFT, _padded_shift),
        (REPRESENTABLE, _representable),
    ),
    steps=_steps,
)
