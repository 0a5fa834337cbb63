"""What normfold says about a model: one decision for every norm, and the proof of the result.

These records are plain data. The engine fills them, the report prints them, the API returns them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Literal

Progress = Callable[[str], None]
"""Told what is being done at the moment."""

Outcome = Literal["folded", "part-folded", "lowered", "kept"]
Status = Literal["equivalent", "different", "skipped", "unavailable"]

PREMISES: Final[dict[str, str]] = {
    "affine": "The operation is an affine map of its input: `k / x` is not.",
    "bias-range": "A quantised bias leaves room in int32 for the sum that it is added to: it has at most 2^30 steps.",
    "called-once": "A module that changes is called once, and nothing else reads its weight.",
    "code-range": "A quantised weight's mirrored codes fit their type: that of -128 is not in int8.",
    "constant": "Weights and constants are known before the model runs: stored, or arithmetic on stored ones.",
    "does-not-pay": "The fold inserts nothing that costs more than what it removes.",
    "eval-mode": "The module is in evaluation mode: its norms use their running statistics, its dropouts do nothing.",
    "every-tap": "Every output position sums every tap: no zeros of a padding take part where a shift has to pass.",
    "finite": "Every constant of the map is a number; a variance plus epsilon of zero gives none.",
    "fixed-path": "Which operations a module runs does not depend on the numbers that it is given.",
    "fixed-statistics": "The norm's statistics are constants, not computed from each input.",
    "floating-point": "The constants are of a floating type.",
    "has-kernel": "ONNX Runtime has a kernel for the operator that a decomposed norm becomes, in its type.",
    "inference-mode": "The norm or dropout is in inference mode: no training_mode, no outputs of the training form.",
    "known-parts": "The sizes of the parts of a Concat along its axis are known.",
    "known-rank": "The number of dimensions of the norm's input is known, so that its channel axis is.",
    "known-sizes": "The sizes of the axes along which a decomposed norm gets a scale are known.",
    "linear-consumer": "Every operation that reads the norm's output, directly or along a route, can absorb it.",
    "linear-producer": "The operation that makes the norm's input, directly or along a route, can absorb it.",
    "matrix": "The constant operand of a matrix product is a matrix, and the other one has a known rank.",
    "needs-structure": "The fold only sets constants and takes modules out: a module tree can express no more.",
    "no-hooks": "No hook sees, or changes, what goes in and out of a module that changes.",
    "no-scale": "Only a shift passes an addition whose other branch does not have the same scale.",
    "no-shift": "Only a scale passes an activation or a product.",
    "non-negative-scale": "No scale is negative where an activation or a maximum lies on the route.",
    "normal-scale": "The new scale of a quantised weight is a normal number of its type.",
    "not-output": "A value whose content changes is not an output of its graph and is not read inside a subgraph.",
    "not-overridable": "An initializer is not at the same time a model input, which a caller could override.",
    "not-overwritten": "Where a value is changed in place after a norm, nobody else reads it.",
    "not-padded-axis": "The map does not vary along an axis that a Pad pads.",
    "not-pooled-axis": "The map does not vary along an axis that is pooled.",
    "opset-has-operator": "The model's opset has the operator that a decomposed norm becomes.",
    "padded-shift": "A shift before an operation that pads can stand alone before it, or its response can after it.",
    "parameter-untied": "A tensor that changes belongs to one module only.",
    "per-axis-scale": "A quantised weight may have a scale for each channel (opset 13 or newer), or needs one only.",
    "per-channel-statistics": "A BatchNormalization has statistics for each channel, not for each element (spatial=0).",
    "per-input-channel": "The map varies along the input channels of the linear operation only.",
    "per-output-channel": "The map varies along the output channels of the linear operation only.",
    "plain-norm": "The module of a norm normalises and then calls its children one after another, nothing else.",
    "representable": "The new constants fit the type they are stored in.",
    "room": "A norm's own scale and bias have room for the map: its axes, and a bias for a shift.",
    "running-statistics": "A norm keeps running statistics, and does not normalise by the batch at hand.",
    "same-codes": "A quantised weight gets one scale for all input channels that meet in an output.",
    "same-group": "A channel that changes places stays in its group.",
    "same-in-group": "A bias before a norm is the same for all channels that share a mean, which subtracts it.",
    "same-input": "Branches that are merged read the same value.",
    "same-opset": "A local function that holds norms uses the model's own opset, so that it can be inlined.",
    "same-scope": "Norm and linear operation stand in the same graph body, not one inside a branch or a loop.",
    "same-shape": "A constant broadcasts against the value without enlarging it.",
    "same-window": "Branches that are merged look at the same places: each tap of one is a tap of the other.",
    "scale-axis": "The scales of a quantised weight follow its output channels; groups that share scales get the same.",
    "selected": "The norm was not left out by --only or --skip.",
    "short-route": "The route from the norm to what absorbs it has a bounded number of operations.",
    "single-use": "Nothing else reads a value whose content changes.",
    "static-reshape": "The channels can be followed through the operation that moves elements.",
    "trailing-axes": "A decomposed norm normalises the last axes, as the operator that it becomes does.",
    "uniform-bounds": "A Clip gets the same new bounds for every channel.",
    "uniform-padding": "A Pad gets the same new number for every channel.",
    "verification-failed": "The folded model agreed with its source when this norm was folded.",
    "well-formed": "The shapes of an operation's constants fit together.",
    "well-conditioned": "Undoing a map for other readers of a value cancels little of what the value says.",
    "whole-codes": "A quantised weight is made of whole numbers of 4, 8 or 16 bits, its quantised bias of 32 bits.",
}
"""Premise name to what it states; a closed list."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A premise that does not hold at one place, with a sentence a user can act on."""

    premise: str
    because: str


@dataclass(frozen=True, slots=True)
class Decision:
    """What became of one norm, and why."""

    site: str
    norm: str
    outcome: Outcome
    into: tuple[str, ...] = ()
    """Names of the nodes that absorbed it."""
    rules: tuple[str, ...] = ()
    """Names of the rules applied, in the order of the route."""
    refused_by: tuple[Refusal, ...] = ()
    error: float | None = None
    """Largest deviation seen at this norm's output, relative to that output's range."""


@dataclass(frozen=True, slots=True)
class SiteReport:
    """A norm as `inspect` shows it."""

    site: str
    norm: str
    shape: tuple[int | str | None, ...] | None
    health: tuple[str, ...]
    would: Decision


@dataclass(frozen=True, slots=True)
class Probe:
    """One input of one verification run: what was fed and how it was made."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    made: str


@dataclass(frozen=True, slots=True)
class Verification:
    """Numeric comparison of a result with its source.

    ``max_abs`` is the largest absolute difference over all outputs and probes; ``max_rel`` the
    largest difference divided by the range (max - min) of the output it was seen at.
    """

    status: Status
    because: str = ""
    max_abs: float | None = None
    max_rel: float | None = None
    rtol: float | None = None
    inputs: tuple[Probe, ...] = ()
    first_parting: str | None = None
    """Site of the first norm, in topological order, at whose output the two models part."""
    errors: dict[str, float] = field(default_factory=dict)
    """Site to the largest relative deviation seen there."""


def silent(_doing: str) -> None:
    """Report no progress."""


def counts(decisions: Iterable[Decision]) -> dict[str, int]:
    """Number of norms by outcome: keys norms, folded, part_folded, lowered, kept."""
    tally = {"norms": 0, "folded": 0, "part_folded": 0, "lowered": 0, "kept": 0}
    for decision in decisions:
        tally["norms"] += 1
        tally[decision.outcome.replace("-", "_")] += 1
    return tally


@dataclass(frozen=True, slots=True)
class Pair:
    """A value of the source and the value of the result that must agree with it, and the norms they stand for."""

    source: str
    result: str
    sites: tuple[str, ...]


def decision_record(decision: Decision) -> dict[str, Any]:
    """One norm's decision; ``error`` is the relative deviation seen at the norm itself."""
    return {
        "site": decision.site,
        "norm": decision.norm,
        "outcome": decision.outcome,
        "into": list(decision.into),
        "rules": list(decision.rules),
        "refused_by": [refusal_record(refusal) for refusal in decision.refused_by],
        "error": finite(decision.error),
    }


def refusal_record(refusal: Refusal) -> dict[str, Any]:
    """A premise that does not hold, and why."""
    return {"premise": refusal.premise, "because": refusal.because}


def finite(value: float | None) -> float | None:
    """``value``, or ``None`` where JSON could not hold it."""
    return float(value) if value is not None and math.isfinite(value) else None
