"""Whether a plan that inserts operations pays, by measured tables that the package ships, one an execution provider.

An entry is called PLACE/OPERATION and is what the operation adds to a graph's time, in units of a BatchNormalization in
the same place. The place is that of the linear operation next to it, the operation what the inserted view has constants
for. ``benchmarks/insertion_costs.py`` makes the tables.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from math import inf
from typing import Final

from normfold.core.graph import Graph, maker
from normfold.core.plan import Bypass, Insert, Plan
from normfold.core.views import Linear, Norm, View, unquantized
from normfold.errors import UsageError

DEFAULT: Final = "cpu"
"""The provider whose table is used where none is named."""
ALIKE: Final = {
    "Sub": "Add",
    "Div": "Mul",
    "Neg": "Mul",
    "InstanceNormalization": "BatchNormalization",
    "FrozenBatchNormalization": "BatchNormalization",
}
"""Operations that cost what another one costs."""
WORDS: Final = {
    "Add": "an addition",
    "Map": "the addition of a map",
    "Mul": "a multiplication",
    "Mul+Add": "a multiplication and an addition",
}
"""What each operation is called when talking to a user."""


@dataclass(frozen=True)
class Verdict:
    """What a plan inserts over what it takes out, and the sentence that says so.

    ``gains`` is whether anything but additions goes, or more than comes: additions that only take the place of others
    could go on so for ever.
    """

    ratio: float
    because: str
    gains: bool


@dataclass(frozen=True)
class CostTable:
    """What operations cost on one execution provider; what was not measured costs too much.

    With ``allow_inserted`` it is not asked: whatever makes a norm go may be inserted.
    """

    provider: str
    entries: Mapping[str, float]
    allow_inserted: bool = False

    @property
    def moves_past_pools(self) -> bool:
        """Whether a norm behind a pooling costs less than one before it."""
        return self.entries.get("pool/Behind", inf) < 1

    @property
    def pools_first(self) -> bool:
        """Whether a pointwise convolution and an average pooling cost less where the pooling is the first."""
        return self.entries.get("pointwise/First", inf) < 1

    @property
    def moves_biases(self) -> bool:
        """Whether a bias of a matrix product costs something, so that one less is worth having."""
        return self.entries.get("matmul/Add", 0.0) > 0

    def allows(self, verdict: Verdict) -> bool:
        """Whether what goes costs more than what comes."""
        return verdict.gains and (self.allow_inserted or verdict.ratio < 1)

    def judge(self, graph: Graph, plan: Plan) -> Verdict:
        """What ``plan`` inserts, each insertion over the cost of everything that goes in its kind of place."""
        inserts = list(plan.each(Insert))
        operators = [graph.view(edit.node).op for edit in plan.each(Bypass)]
        operators += [op for view in plan.views for op in _given_away(graph, view)]
        keys = [cost_key(graph, insert) for insert in inserts]
        ratio = sum(self._over_removed(key, operators) for key in keys)
        names = " and ".join(dict.fromkeys(_words(graph, *pair) for pair in zip(inserts, keys, strict=True)))
        gone = ", ".join(dict.fromkeys(operators))
        gains = any(ALIKE.get(op, op) != "Add" for op in operators) or len(inserts) < len(operators)
        costs = f"costs {ratio:.2g}x the {gone} that goes" if gone else "comes, and nothing goes"
        entries = ", ".join(dict.fromkeys(keys))
        return Verdict(ratio, f"on {self.provider}, {names} {costs} (cost table {self.provider}: {entries})", gains)

    def _over_removed(self, key: str, operators: Sequence[str]) -> float:
        """The cost of what is inserted over that of all ``operators`` that go, as if they stood in the same place."""
        place = key.partition("/")[0]
        removed = sum(self.entries.get(f"{place}/{ALIKE.get(op, op)}", 0.0) for op in operators)
        return self.entries.get(key, inf) / removed if removed else inf


def _given_away(graph: Graph, view: View) -> Iterator[str]:
    """What goes with the constants that a norm which is written out applies on the way."""
    before = graph.view(view.node)
    if isinstance(before, Norm) and before.unemitted is not None and before.tail is not None:
        yield from ("Mul",) if before.tail.scales else ()
        yield from ("Add",) if before.tail.shifts else ()


def cost_key(graph: Graph, insert: Insert) -> str:
    """The entry of the cost tables for what ``insert`` puts in."""
    beside, affine = _beside(graph, insert), insert.view.affine
    place, channels = "matmul", None
    if beside is not None and beside.weight.taps:
        place, channels = "conv", beside.out_axes if insert.reader is None else beside.in_axes
    varies = {axis for axis in range(-len(affine.shape), 0) if affine.shape[axis] != 1}
    if channels is not None and not varies <= set(channels):
        return f"{place}/Map"
    # A shift that happens to be zero is one that the table is asked for all the same.
    shifts = affine.shifts or not affine.scales
    return f"{place}/{'+'.join(op for op, there in (('Mul', affine.scales), ('Add', shifts)) if there)}"


def _beside(graph: Graph, insert: Insert) -> Linear | None:
    """The linear operation that ``insert`` stands before or behind."""
    view = maker(graph, insert.value) if insert.reader is None else graph.view(insert.reader)
    linear = None if view is None else unquantized(view)
    return linear if isinstance(linear, Linear) else None


def _words(graph: Graph, insert: Insert, key: str) -> str:
    node = graph.producer(insert.value) if insert.reader is None else insert.reader
    where = "after" if insert.reader is None else "before"
    return f"{WORDS[key.partition('/')[2]]} {where} {'its input' if node is None else graph.label(node)}"


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
