"""The small protocol through which rules and the engine see a model, and the plan they hand back."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from normfold.core.algebra import Affine
from normfold.core.algebra.moves import Dim
from normfold.core.views import Node, Value, View
from normfold.records import Refusal


@dataclass(frozen=True, slots=True)
class Site:
    """A norm and where it stands.

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


Form = Literal["conv/Add", "conv/Map", "matmul/Add"]
"""What is inserted where, as the cost tables name it: an addition before a convolution, or of a map after it, ..."""


@dataclass(frozen=True, slots=True, eq=False)
class Insertion:
    """A new affine operation by constants between ``value`` and all its uses, or ``reader`` alone where it is set."""

    value: Value
    affine: Affine
    form: Form
    reader: Node | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """All the edits of one fold, along its whole route; committed whole or not at all.

    ``views`` holds the changed view of every node that gets new constants. ``bypassed`` says of every node that
    goes which value takes its output's place; for those in ``replaced``, that value now holds what the output held.
    ``moved`` says of every node that changes places behind which of its readers it goes, with its constants.
    ``removed`` are nodes that go because nobody reads them any more. ``changed`` are values whose content in the
    result is not that of the value of the same name in the source. ``into`` are the nodes that absorbed something,
    ``rules`` the names of the rules on the route.
    """

    views: Mapping[Node, View] = field(default_factory=dict)
    bypassed: Mapping[Node, Value] = field(default_factory=dict)
    moved: Mapping[Node, Node] = field(default_factory=dict)
    inserted: tuple[Insertion, ...] = ()
    replaced: frozenset[Node] = frozenset()
    removed: tuple[Node, ...] = ()
    changed: tuple[Value, ...] = ()
    into: tuple[Node, ...] = ()
    rules: tuple[str, ...] = ()

    def with_view(self, view: View) -> Plan:
        """This plan with ``view`` in place of its node's."""
        return replace(self, views={**self.views, view.node: view})


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

    def normalised_by(self, node: Node) -> Sequence[Node]:
        """The operations that compute the weight of ``node`` from constants, where it is normalised on the way."""
        ...

    def escapes(self, value: Value) -> str | None:
        """Why ``value`` is seen from outside its graph (an output, a captured value), or ``None``."""
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

    def unable(self, plan: Plan) -> Refusal | None:
        """Why this kind of model has no place for the edits of ``plan``, or ``None`` where it has."""
        ...

    def commit(self, plan: Plan) -> None:
        """Carry out every edit of ``plan``; the only mutation."""
        ...
