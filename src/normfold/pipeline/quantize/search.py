"""Mixed precision within a budget of accuracy: which operations go back to floating point, so that the metric holds.

Every operation is looked at both ways, alone in floating point and alone on codes, by how far the outputs come from
the source's on samples that no metric sees. They go back in the order of what that gains for each millisecond that it
costs, one by one; after each the outputs are compared again, and the metric is measured where they came nearer.
What was measured is kept by what it depends on, so that a search that was cut off goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from normfold import limits
from normfold.passes.quantize.figures import Accuracy
from normfold.passes.quantize.recipe import Mixture
from normfold.pipeline.stages import Workshop

ENOUGH: Final = 0.9
"""The metric is measured again where the loss has fallen to this part of what it was."""
CHEAPEST: Final = 0.01
"""Part of the model's time that an operation costs at least, when gains are held against costs."""
RESERVED: Final = 0.35
"""Part of the time at the search's beginning that is left for proving and timing what it finds."""
STAGE: Final = "quantize"


@dataclass(slots=True)
class Memory:
    """Measurements by what they depend on; those of earlier runs too, where there is a folder for them."""

    context: Mapping[str, Any] = field(default_factory=dict)
    workshop: Workshop | None = None
    _known: dict[tuple[str, frozenset[str]], Any] = field(default_factory=dict)

    def measured(self, kind: str, names: frozenset[str], measure: Callable[[], Any]) -> Any:
        """What ``measure`` returns, a JSON value: ``kind`` of the model with ``names`` in floating point."""
        key = kind, names
        if key not in self._known:
            if self.workshop is None:
                self._known[key] = measure()
            else:
                depends = {**self.context, "kind": kind, "floating": sorted(names)}
                done = self.workshop.do(STAGE, depends, lambda _: {"value": measure()})
                self._known[key] = done.record["value"]
        return self._known[key]


@dataclass(frozen=True, slots=True)
class Step:
    """One model of a search."""

    floating: frozenset[str]
    """Operations in floating point."""
    accuracy: Accuracy


@dataclass(slots=True)
class Search:
    """Looks for the fewest milliseconds of floating point with which the metric ``holds``."""

    mixture: Mixture
    score: Callable[[frozenset[str]], Accuracy]
    holds: Callable[[Accuracy], bool]
    milliseconds: Mapping[str, float]
    """By operation, what floating point costs more than codes; empty where that is not known."""
    memory: Memory
    say: Callable[[str], None]
    steps: list[Step] = field(default_factory=list)
    """What the metric was measured of, in order."""
    finished: bool = True
    """Whether the time was enough."""
    _until: float = 0.0

    def run(self) -> Step | None:
        """The first that holds; else the best so far, or None where there was no time for any."""
        left = limits.remaining()
        self._until = 0.0 if left is None else RESERVED * left
        floating: frozenset[str] = frozenset()
        least = scored = self._loss(floating)
        for name in self._ranked(least):
            trial = floating | {name}
            # With none on codes nothing would be quantised.
            if self._is_late() or len(trial) == len(self.mixture.names):
                break
            self.say(f"{len(trial)} of {len(self.mixture.names)} operations in floating point")
            loss = self._loss(trial)
            if loss >= least:
                continue
            floating, least = trial, loss
            if least > ENOUGH * scored:
                continue
            scored = least
            if self.holds(self._scored(floating)):
                return self.steps[-1]
        if least < scored and not self._is_late():
            self._scored(floating)
        return min(self.steps, key=lambda step: step.accuracy.drop, default=None)

    def _ranked(self, start: float) -> list[str]:
        """Operations by gain over cost, the best first."""
        names = self.mixture.names
        gains = dict.fromkeys(names, 0.0)
        everything = frozenset(names)
        for number, name in enumerate(names):
            if self._is_late():
                break
            self.say(f"sensitivity of operation {number + 1} of {len(names)}")
            gains[name] = max(start - self._loss(frozenset({name})), 0.0) + self._loss(everything - {name})
        floor = CHEAPEST * max(sum(map(abs, self.milliseconds.values())), 1e-9)
        costs = {name: max(self.milliseconds.get(name, 0.0), floor) for name in names}
        return sorted((name for name in names if gains[name] > 0.0), key=lambda name: -gains[name] / costs[name])

    def _loss(self, floating: frozenset[str]) -> float:
        found: float = self.memory.measured("loss", floating, lambda: self.mixture.loss(floating))
        return found

    def _scored(self, floating: frozenset[str]) -> Accuracy:
        record = self.memory.measured("accuracy", floating, lambda: self.score(floating).record())
        self.steps.append(Step(floating, Accuracy.of(record)))
        return self.steps[-1].accuracy

    def _is_late(self) -> bool:
        left = limits.remaining()
        late = left is not None and left <= self._until
        self.finished = self.finished and not late
        return late
