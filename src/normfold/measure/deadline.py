"""Whether runs end in time: the share that does not, with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from normfold.errors import FindingError
from normfold.measure import statistics
from normfold.measure.statistics import Interval
from normfold.records import finite

ALLOWED: Final = 0.01
Kept = Literal["met", "missed", "inconclusive"]


@dataclass(frozen=True, slots=True)
class Deadline:
    """The time that a run may take, and the share of runs that may take longer."""

    seconds: float
    allowed: float = ALLOWED


@dataclass(frozen=True, slots=True)
class Punctuality:
    """How many of the runs that count took longer than a deadline."""

    deadline: Deadline
    missed: int
    runs: int
    share: Interval
    """Of misses. Runs count as independent, which those of one process are not quite."""

    @classmethod
    def of(cls, deadline: Deadline, runs: Sequence[int]) -> Punctuality:
        """From the nanoseconds of every run."""
        missed = sum(run > deadline.seconds * 1e9 for run in runs)
        return cls(deadline, missed, len(runs), statistics.share(missed, len(runs)))

    @property
    def verdict(self) -> Kept:
        """Met or missed where the whole interval is on one side of the share allowed."""
        if self.share.high <= self.deadline.allowed:
            return "met"
        return "missed" if self.share.low > self.deadline.allowed else "inconclusive"

    def finding(self, name: str) -> FindingError | None:
        """The finding that ``name`` misses its deadline, if it does."""
        return FindingError("deadline-missed", self.sentence(name)) if self.verdict == "missed" else None

    def sentence(self, name: str) -> str:
        """``net misses the deadline of 20 ms in 0.12 % of 8200 runs (0.06 to 0.22 %); 1 % may: met``."""
        share, deadline = self.share, f"the deadline of {self.deadline.seconds * 1e3:g} ms"
        bounds = f"{100 * share.low:.3g} to {100 * share.high:.3g} %"
        part = f"{100 * share.value:.3g} % of {self.runs} runs ({bounds})"
        return f"{name} misses {deadline} in {part}; {100 * self.deadline.allowed:g} % may: {self.verdict}"

    def record(self, name: str) -> dict[str, Any]:
        """As a document holds it."""
        finding, share = self.finding(name), self.share
        return {
            "ns": self.deadline.seconds * 1e9,
            "allowed": self.deadline.allowed,
            "missed": self.missed,
            "runs": self.runs,
            "share": {"value": finite(share.value), "low": finite(share.low), "high": finite(share.high)},
            "verdict": self.verdict,
            "finding": None if finding is None else finding.record(),
        }
