"""What a comparison has found at one output on one probe, and how it is said."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from normfold.proof.deviation import Deviation, compare
from normfold.proof.probes import Feed, is_float
from normfold.records import Verification

Array = NDArray[Any]
Values = Mapping[str, Array]

NOISE_FACTOR: Final = 4.0
"""A difference up to this many times the source's own rounding noise may be noise."""
NOISE_CAP: Final = 1e-2
"""Relative deviation above which noise is no excuse, except in a model that differs from itself."""
CHAOTIC: Final = (
    "inconclusive: the source is numerically chaotic on this input "
    f"(it moves by more than {NOISE_CAP:g} of its range where its inputs move by one unit of rounding)"
)
ROUNDING: Final = (
    "which the source's own rounding explains: inputs moved by one unit of rounding, or another order of computation, "
    "change it as much"
)
EXACT: Final = "where it is no further from what the source computes in float64 than the source itself"


@dataclass(frozen=True, slots=True)
class SourceAnswers:
    """What the source was fed, what came out, and what is worth saying."""

    evaluator: str
    feeds: tuple[Feed, ...]
    outputs: tuple[Values, ...]
    notes: tuple[str, ...]
    differs_from_itself: bool


@dataclass(frozen=True, slots=True)
class Finding:
    """One output on one probe."""

    probe: int
    output: str
    deviation: Deviation
    tolerance: float
    exact: bool

    @property
    def agrees(self) -> bool:
        """Whether the deviation is within the tolerance."""
        return self.deviation.excess <= 1.0


def is_noise(finding: Finding, noise: Mapping[tuple[int, str], float], cap: float) -> bool:
    """Whether the rounding of the source explains ``finding``, whose relative deviation may be ``cap`` at most."""
    relative = finding.deviation.max_rel
    if not np.isfinite(finding.deviation.excess) or (relative is None and not finding.exact):
        return False
    within_cap = finding.exact or (relative is not None and relative <= cap)
    return within_cap and finding.deviation.excess <= NOISE_FACTOR * noise.get((finding.probe, finding.output), 0.0)


def is_no_less_exact(finding: Finding, exact: Array, source: Array, result: Array) -> bool:
    """Whether ``result`` is no further from ``exact`` than ``source`` is, or within the tolerance of it."""
    if finding.exact or not is_float(exact.dtype):
        return False
    truth, before, after = (array.astype(np.float64) for array in (exact, source, result))
    own, other = (compare(truth, array, finding.tolerance) for array in (before, after))
    if other.excess <= 1.0:
        return True
    return other.excess <= own.excess and own.max_rel is not None and own.max_rel <= NOISE_CAP


def describe(finding: Finding, findings: Iterable[Finding], answers: SourceAnswers) -> str:
    """How far an output is off, and on which inputs."""
    probe = next(iter(answers.feeds[finding.probe].probes), None)
    where = f" on inputs {probe.made!r}" if probe else ""
    if not finding.deviation.reason:
        share = f"output {finding.output!r} deviates by {finding.deviation.max_rel:.2e} of its range"
        channel = ", but by more than the small range of one channel allows" if finding.deviation.in_channel else ""
        return f"{share}{channel}{where}"
    text = f"output {finding.output!r} {finding.deviation.reason}{where}"
    floats = [other for other in findings if not other.exact]
    if finding.exact and floats and all(other.agrees for other in floats):
        text += ", while every floating-point output agrees (near ties?)"
    return text


def with_largest(base: Verification, findings: Iterable[Finding]) -> Verification:
    """``base`` with the largest deviations of ``findings``."""
    deviations = [finding.deviation for finding in findings]
    return replace(
        base,
        max_abs=_largest(deviation.max_abs for deviation in deviations),
        max_rel=_largest(deviation.max_rel for deviation in deviations),
    )


def said(base: Verification, answers: SourceAnswers, *because: str) -> Verification:
    """``verification`` with what is worth saying about it."""
    return replace(base, because="; ".join([*because, *answers.notes]))


def _largest(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)
