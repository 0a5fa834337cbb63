"""The small protocol through which rules and the engine see a model."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from normfold.core.algebra.affine import Array
from normfold.core.algebra.moves import Dim
from normfold.core.plan import Plan
from normfold.core.views import Node, Value, View
from normfold.records import Refusal, Role, StatisticsRecord


@dataclass(frozen=True, slots=True)
class Site:
    """A norm, or a scale that is none, and where it stands.

    ``nodes`` are the operations that make it up, in the order in which they are tried: one for a normalisation
    operation, several for a decomposed one or a chain of constants.
    """

    name: str
    norm: str
    nodes: tuple[Node, ...]
    shape: tuple[Dim, ...] | None
    output: str
    """Name of the value that the norm makes."""
    health: tuple[str, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    """Why it stays, where that is known without looking for a way out."""
    role: Role = "norm"
    """A scale that is no norm takes any way out that costs nothing, and nobody asks why it stays."""


class Graph(Protocol):
    """A model as rules and the engine see it. Two backends implement it."""

    def nodes(self) -> Sequence[Node]:
        """Every operation, in topological order."""
        ...

    def sites(self) -> Sequence[Site]:
        """Every norm, in topological order."""
        ...

    def view(self, node: Node) -> View:
        """The node as an operation that rules know, or `Opaque`."""
        ...

    def producer(self, value: Value) -> Node | None:
        """The node that makes ``value``; ``None`` for an input or a constant."""
        ...

    def consumers(self, value: Value) -> Sequence[tuple[Node, int]]:
        """The nodes that read the elements of ``value``, each with the input's index; shape readers are left out."""
        ...

    def constant(self, value: Value) -> Array | None:
        """What the model stores in ``value``, which one operation reads as data; ``None`` where it stores nothing."""
        ...

    def normalised_by(self, node: Node) -> Sequence[Node]:
        """The operations that compute the weight of ``node`` from constants, where it is normalised on the way."""
        ...

    def escapes(self, value: Value) -> Refusal | None:
        """Why the content of ``value`` may not change: it is seen from outside its graph, or its readers vary."""
        ...

    def same_scope(self, first: Node, second: Node) -> bool:
        """Whether two nodes stand in the same graph body."""
        ...

    def shape(self, value: Value) -> tuple[Dim, ...] | None:
        """The dimensions of ``value``, as far as they are known."""
        ...

    def label(self, thing: Node | Value) -> str:
        """What to call a node or value when talking to a user."""
        ...

    def name(self, node: Node) -> str:
        """The site name of ``node``."""
        ...

    def value_name(self, value: Value) -> str:
        """The name of ``value`` in the model as it is now."""
        ...

    def values(self) -> Collection[str]:
        """Names of all values that operations make. A name that a model and its folded form share means the same."""
        ...

    def origins(self) -> Mapping[str, str]:
        """The name that each value, an input included, has in the model handed over, by its name now."""
        ...

    def records(self) -> Sequence[StatisticsRecord] | None:
        """The statistics records that the model came with; ``None`` where it was never given any."""
        ...

    def keep(self, records: Sequence[StatisticsRecord]) -> None:
        """Let the model carry ``records`` from now on."""
        ...

    def unable(self, plan: Plan) -> Refusal | None:
        """Why this kind of model has no place for the edits of ``plan``, or ``None`` where it has."""
        ...

    def copied(self, plan: Plan) -> int:
        """How many elements of constants ``plan`` would store once more, since operations that it leaves read them."""
        ...

    def commit(self, plan: Plan) -> Mapping[Value, str]:
        """Carry out every edit of ``plan``; the only mutation.

        The new names of the values that have changed, but for those that the writer has put to another use.
        """
        ...


def maker(graph: Graph, value: Value) -> View | None:
    """The operation that makes ``value``; ``None`` for an input or a constant."""
    producer = graph.producer(value)
    return None if producer is None else graph.view(producer)
