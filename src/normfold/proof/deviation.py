"""How far one array is from another, in multiples of what rounding explains.

Deviations are measured against the range of the source's values, since a norm's output has no natural
unit. One range for a whole output hides errors in its small parts (scores beside box coordinates), so
every channel with enough elements is also held to its own range, ten times more loosely.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from normfold.proof.probes import finfo, is_float

Array = NDArray[Any]

TOLERANCES: Final[dict[str, float]] = {"float64": 1e-9, "float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
"""Largest deviation, relative to the output's range, that counts as equal."""
FLOAT8_TOLERANCE: Final = 0.5

NARROW: Final = 0.1
"""A range below this part of the largest magnitude is no scale: the magnitude is."""
SLICE_ELEMENTS: Final = 64
SLICE_LOOSENESS: Final = 10.0
SLICE_TOLERANCE: Final = 1e-3
"""Channels are looked at up to this tolerance: a looser one is near the rounding that channels share."""
SLICE_FLOOR: Final = 1e-3
"""A channel is never held to less than this part of the whole output's scale: dead ones hold rounding only."""


@dataclass(frozen=True, slots=True)
class Deviation:
    """One array against another.

    ``max_abs`` and ``max_rel`` are over the elements finite in both, None where nothing can be compared.
    ``excess`` is the deviation in multiples of the tolerance: at most 1 is equal. ``reason`` says what
    differs where it is not a matter of degree. ``in_channel`` says that one channel is further off its own
    range than the whole output is off its.
    """

    excess: float
    max_abs: float | None = None
    max_rel: float | None = None
    reason: str = ""
    in_channel: bool = False


def tolerance(dtype: np.dtype[Any], precision: str | None = None) -> float:
    """Tolerance for values of ``dtype`` that were computed in ``precision``; 0 where equality is exact."""
    if not is_float(dtype):
        return 0.0
    return max(TOLERANCES.get(name, FLOAT8_TOLERANCE) for name in (dtype.name, precision or dtype.name))


def compare(source: Array, result: Array, rtol: float) -> Deviation:
    """Deviation of ``result`` from ``source``; integers, booleans and strings must be equal."""
    if source.dtype != result.dtype and source.dtype.kind not in "OUS":
        return Deviation(math.inf, reason=f"is {result.dtype.name} instead of {source.dtype.name}")
    if source.shape != result.shape:
        return Deviation(math.inf, reason=f"has shape {result.shape} instead of {source.shape}")
    if source.size == 0:
        return Deviation(0.0, 0.0, 0.0)
    return _compare_floats(source, result, rtol) if is_float(source.dtype) else _compare_exactly(source, result)


def _compare_exactly(source: Array, result: Array) -> Deviation:
    differs = source != result
    fraction = float(np.mean(differs))
    if fraction == 0.0:
        return Deviation(0.0, 0.0, 0.0)
    largest = None
    if source.dtype.kind in "biu":
        largest = float(np.max(np.abs(source.astype(np.float64) - result.astype(np.float64))))
    # Any difference exceeds, and the excess still orders and scales like the fraction.
    return Deviation(fraction * 2.0 * source.size, largest, None, f"differs in {fraction:.2%} of its elements")


def _compare_floats(source: Array, result: Array, rtol: float) -> Deviation:
    a, b = source.astype(np.float64), result.astype(np.float64)
    comparable = np.isfinite(a) & np.isfinite(b)
    if comparable.all():
        # Nearly always, and the values of a large model need not be copied again.
        return _measured(a, np.abs(np.subtract(a, b, out=b), out=b), rtol, source.dtype)
    if not comparable.any():
        same = bool(np.array_equal(a, b, equal_nan=True))
        return Deviation(0.0, 0.0, 0.0) if same else Deviation(math.inf, reason=_elsewhere(a, b))
    a0 = np.where(np.isfinite(a), a, np.mean(a[comparable]))
    difference = np.abs(np.subtract(a, b, out=np.zeros_like(a), where=comparable))
    found = _measured(a0, difference, rtol, source.dtype)
    if np.array_equal(a[~comparable], b[~comparable], equal_nan=True):
        return found
    return Deviation(math.inf, found.max_abs, found.max_rel, _elsewhere(a, b))


def _measured(values: Array, difference: Array, rtol: float, dtype: np.dtype[Any]) -> Deviation:
    """The deviation of what differs by ``difference`` from the finite ``values`` of a source of ``dtype``."""
    scale = _scale(values)
    largest = float(difference.max())
    # Below the normal numbers a type has one step for all: nothing can be closer than that.
    step = float(finfo(dtype).smallest_subnormal)
    whole = largest / max(rtol * scale, step) if rtol else math.inf if largest else 0.0
    part = (
        _slice_excess(values, difference, rtol, max(SLICE_FLOOR * scale, step / (rtol * SLICE_LOOSENESS)))
        if rtol
        else 0.0
    )
    return Deviation(max(whole, part), largest, largest / scale, in_channel=part > whole)


def _elsewhere(a: Array, b: Array) -> str:
    count = int(np.sum(~((a == b) | (np.isnan(a) & np.isnan(b))) & ~(np.isfinite(a) & np.isfinite(b))))
    return f"has NaN or infinity in other places ({count} elements)"


def _scale(values: Array) -> float:
    low, high = float(values.min()), float(values.max())
    peak = max(abs(low), abs(high))
    if high - low > NARROW * peak:
        return high - low
    return peak or 1.0


def _slice_excess(values: Array, difference: Array, rtol: float, least: float) -> float:
    """Largest excess of one channel, on axis 1 or the last one, over its own range, which is at ``least`` that."""
    if values.ndim < 3 or rtol > SLICE_TOLERANCE:
        return 0.0
    worst = 0.0
    for axis in {1, values.ndim - 1}:
        if values.size // values.shape[axis] < SLICE_ELEMENTS:
            continue
        others = tuple(other for other in range(values.ndim) if other != axis)
        spread = values.max(axis=others) - values.min(axis=others)
        scales = np.maximum(np.maximum(spread, np.abs(values).max(axis=others)), least)
        worst = max(worst, float(np.max(difference.max(axis=others) / scales)) / (rtol * SLICE_LOOSENESS))
    return worst
