"""Fold an affine map into the linear operation that consumes its output.

What it does:
    Multiplies the input channels of the weight of a Conv, ConvTranspose, Gemm or MatMul by the map's scale, and adds
    what the shift contributes to each output to the bias. A MatMul, which has no bias, passes that on to the Add after
    it.

When it holds:
    The map varies along the operation's input channels only. For the shift, every output position sums every tap: no
    padding.

Example:
    ``Relu -> BatchNormalization -> Gemm`` becomes ``Relu -> Gemm``.

Refused when:
    The map varies along another axis (``per-input-channel``), has a shift and the operation pads (``every-tap``), a
    constant is not a number (``finite``), or the new weight does not fit its type (``representable``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from normfold.core.algebra import Affine, trim
from normfold.core.algebra.affine import Array
from normfold.core.laws import forward
from normfold.core.laws.forward import push_into_columns, spread
from normfold.core.plan import Insert
from normfold.core.premises import EVERY_TAP, FINITE, PER_INPUT_CHANNEL, REPRESENTABLE
from normfold.core.rules.rule import FORWARD, Carry, Rule, Step, Target
from normfold.core.rules.shared import finite, input_columns, linear_fits, per_input_channel
from normfold.core.views import Linear


def _every_tap(carry: Carry[Linear, Affine]) -> str | None:
    if carry.view.whole_taps or not carry.map.shifts:
        return None
    if carry.view.weight.order == "gio":  # a transposed convolution
        return f"not every output of {carry.label} sums every tap, so the shift would not add the same everywhere"
    return f"{carry.label} pads with zeros, which the shift would not reach"


def _folded(carry: Carry[Linear, Affine]) -> tuple[Linear, Array]:
    """The operation with scaled columns, and the shift of its output, right-aligned with it."""
    view, columns = carry.view, input_columns(carry)
    if columns is None:
        raise ValueError("per-input-channel does not hold")
    weight, added = push_into_columns(view.weight, *columns)
    return replace(view, weight=weight), trim(spread(added, view.out_axes, view.out_sizes))


def _shifted(view: Linear, added: Array) -> Linear:
    return replace(view, bias=trim(added if view.bias is None else view.bias + added))


def _representable(carry: Carry[Linear, Affine]) -> str | None:
    return linear_fits(_shifted(*_folded(carry)), carry.label)


def _steps(carry: Carry[Linear, Affine]) -> Iterable[Step]:
    view, added = _folded(carry)
    if not carry.map.shifts:
        yield Step(view=view)
        return
    if view.bias_slot:
        yield Step(view=_shifted(view, added))
        return
    shift = Affine.of(shift=added)
    yield Step(view=view, onward=(Target(FORWARD, view.outputs[0], shift),))
    yield Step(view=view, inserted=(Insert.of(view.outputs[0], shift),))


RULE = Rule(
    name="fold_affine_into_consumer",
    law=forward.LAW,
    map=Affine,
    directions=(FORWARD,),
    view=Linear,
    premises=(
        (FINITE, finite),
        (PER_INPUT_CHANNEL, per_input_channel),
        (EVERY_TAP, _every_tap),
        (REPRESENTABLE, _representable),
    ),
    steps=_steps,
)
