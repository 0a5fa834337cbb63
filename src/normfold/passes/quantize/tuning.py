"""Parts of the recipe for eight bits that may help or harm: each stays where outputs on held-out samples come nearer.

Which of them helps differs from network to network, so that none is taken on trust, and the result says which stayed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from normfold.core.integers.gelu import NAME, with_fitted_gelu
from normfold.core.integers.plan import Plan, made_plan
from normfold.core.integers.ranges import BYTES, METHODS, Grid, Method, Seen
from normfold.core.integers.rounding import Spread
from normfold.core.integers.steps import Linear, Network, Step
from normfold.core.integers.weights import Coder
from normfold.passes.quantize.figures import Choice

WORTH: Final = 0.5
"""Part of the loss to which what costs time has to bring it."""
INEXACT: Final = "what stands for it on codes is not exact"


@dataclass(frozen=True, slots=True)
class Tuning:
    """A network and how its codes are chosen."""

    network: Network
    seen: Mapping[str, Seen]
    method: Method
    coder: Coder
    floats: Mapping[Step, str] = field(default_factory=dict)
    """Steps that are quicker, or far more accurate, in floating point, and why."""
    grid: Grid = BYTES
    """Of the codes of values."""

    def plan(self, kept: Mapping[Step, str] | None = None) -> Plan:
        """What it comes to; ``kept`` stay in floating point, too."""
        return made_plan(self.network, self.seen, self.method, {**self.floats, **(kept or {})}, self.coder, self.grid)


def with_exact_gelus(tuning: Tuning) -> Tuning:
    """``tuning`` with every GELU in floating point."""
    activations = {step: INEXACT for step in tuning.network.steps if step.operator == NAME}
    return replace(tuning, floats={**tuning.floats, **activations})


@dataclass(slots=True)
class Tuner:
    """Goes through the parts; ``loss`` says how far the outputs of a plan are from those of the source."""

    loss: Callable[[Plan], float]
    say: Callable[[str], None]
    best: Tuning
    least: float = float("inf")
    choices: list[Choice] = field(default_factory=list)

    def run(self, spreads: Mapping[Linear, Spread], largest: int) -> None:
        """Try everything."""
        start = self.best
        for name, method in METHODS.items():
            self._try(f"ranges by {name}", replace(start, method=method))
        fitted = with_fitted_gelu(self.best.network, self.best.seen)
        if fitted.steps != self.best.network.steps:
            self._try("sigmoids of GELU fitted", replace(self.best, network=fitted))
        if spreads:
            self._try("weights rounded by second moments", replace(self.best, coder=Coder(largest, spreads)))
        exact = with_exact_gelus(self.best)
        if exact.floats != self.best.floats:
            self._try("GELU in floating point", exact, WORTH)

    def _try(self, name: str, tuning: Tuning, part: float = 1.0) -> None:
        """Keep ``tuning`` where its loss is below ``part`` of the least so far."""
        self.say(name)
        found = self.loss(tuning.plan())
        kept = found < part * self.least
        self.choices.append(Choice(name, found, kept))
        if kept:
            self.best, self.least = tuning, found
