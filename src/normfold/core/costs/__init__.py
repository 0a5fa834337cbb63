"""Whether a plan that inserts operations pays, by measured tables that the package ships, one an execution provider.

An entry is called PLACE/OPERATION and is what the operation adds to a graph's time, in units of a BatchNormalization in
the same place. ``benchmarks/insertion_costs.py`` makes the tables.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from math import inf
from typing import Final

from normfold.core.graph import Form, Graph, Insertion, Plan
from normfold.errors import UsageError

DEFAULT: Final = "cpu"
"""The provider whose table is used where none is named."""
ALIKE: Final = {"Sub": "Add", "Div": "Mul", "Neg": "Mul"}
"""Operations that cost what another one costs."""
WORDS: Final[Mapping[Form, str]] = {
    "conv/Add": "an addition before {}",
    "conv/Map": "the addition of a map after {}",
    "matmul/Add": "an addition after {}",
}


@dataclass(frozen=True)
class Verdict:
    """What a plan inserts over what it takes out, and the sentence that says so.

    ``gains`` is whether anything but additions goes: an addition that only takes another one's place could go on so
    for ever.
    """

    ratio: float
    because: str
    gains: bool


@dataclass(frozen=True)
class CostTable:
    """What operations cost on one execution provider; what was not measured costs too much.

    A ``lenient`` one is not asked: whatever makes a norm go may be inserted.
    """

    provider: str
    entries: Mapping[str, float]
    lenient: bool = False

    @property
    def moves_past_pools(self) -> bool:
        """Whether a norm behind a pooling costs less than one before it."""
        return self.entries.get("pool/Behind", inf) < 1

    @property
    def relieves(self) -> bool:
        """Whether a bias of a matrix product costs something, so that one less is worth having."""
        return self.entries.get("matmul/Add", 0.0) > 0

    def allows(self, verdict: Verdict) -> bool:
        """Whether what goes costs more than what comes."""
        return verdict.ratio < 1 or (self.lenient and verdict.gains)

    def judge(self, graph: Graph, plan: Plan) -> Verdict:
        """What ``plan`` inserts, each insertion over the cost of everything that goes in its kind of place."""
        ratio = sum(self._over_removed(graph, plan, insertion) for insertion in plan.inserted)
        names = " and ".join(dict.fromkeys(_words(graph, insertion) for insertion in plan.inserted))
        forms = ", ".join(dict.fromkeys(insertion.form for insertion in plan.inserted))
        operators = dict.fromkeys(graph.view(node).op for node in plan.bypassed)
        gone, gains = ", ".join(operators), any(ALIKE.get(op, op) != "Add" for op in operators)
        costs = f"costs {ratio:.2g}x the {gone} that goes" if gone else "comes, and nothing goes"
        return Verdict(ratio, f"on {self.provider}, {names} {costs} (cost table {self.provider}: {forms})", gains)

    def _over_removed(self, graph: Graph, plan: Plan, insertion: Insertion) -> float:
        place = insertion.form.partition("/")[0]
        operators = [graph.view(node).op for node in plan.bypassed]
        removed = sum(self.entries.get(f"{place}/{ALIKE.get(op, op)}", 0.0) for op in operators)
        return self.entries.get(insertion.form, inf) / removed if removed else inf


def _words(graph: Graph, insertion: Insertion) -> str:
    node = insertion.reader if insertion.reader is not None else graph.producer(insertion.value)
    return WORDS[insertion.form].format("its input" if node is None else graph.label(node))


def _tables() -> Traversable:
    return files(__name__)


def providers() -> list[str]:
    """Those that there is a table for."""
    return sorted(entry.name.removesuffix(".json") for entry in _tables().iterdir() if entry.name.endswith(".json"))


@cache
def cost_table(provider: str = DEFAULT) -> CostTable:
    """The table of ``provider``.

    Raises:
        UsageError: there is none.
    """
    known = providers()
    if provider not in known:
        raise UsageError(
            "no-cost-table",
            f"There is no cost table for the execution provider {provider!r}.",
            f"There is one for: {', '.join(known)}.",
        )
    document = json.loads((_tables() / f"{provider}.json").read_text(encoding="utf-8"))
    return CostTable(provider, document["entries"])
