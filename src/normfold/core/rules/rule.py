"""What a rule is, and what it is asked.

Both kinds state a law, what must be true, and what they do: a `Rule` meets a map that travels through the graph, a
`Rewrite` finds a place by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Generic, Literal, TypeVar

from normfold.core.algebra import Map
from normfold.core.graph import Graph
from normfold.core.laws import Law
from normfold.core.plan import Insert, Plan
from normfold.core.views import Value, View
from normfold.records import Premise, Refusal

Direction = Literal["backward", "forward"]
BACKWARD: Final = "backward"
"""Towards the producer: the operation's output is to become ``map(output)``."""
FORWARD: Final = "forward"
"""Towards the consumers: the operation gets ``x`` where it used to get ``map(x)``."""
EITHER: Final[tuple[Direction, ...]] = (BACKWARD, FORWARD)

V = TypeVar("V", bound=View)
M = TypeVar("M", bound=Map)
A = TypeVar("A")


@dataclass(frozen=True, eq=False, slots=True)
class Carry(Generic[V, M]):
    """A map that has arrived at an operation.

    ``port`` is the index of the output it arrives at (backward) or of the data input (forward).
    """

    graph: Graph
    view: V
    direction: Direction
    map: M
    port: int = 0

    @property
    def label(self) -> str:
        """What to call the operation when talking to a user."""
        return self.graph.label(self.view.node)


@dataclass(frozen=True, eq=False, slots=True)
class Place(Generic[V]):
    """A structure that a rewrite is about, as found and not judged: rewrites of several operations add theirs."""

    graph: Graph
    view: V

    @property
    def label(self) -> str:
        """What to call the operation when talking to a user."""
        return self.graph.label(self.view.node)

    @property
    def parts(self) -> tuple[View, ...]:
        """The operations that take part. Where one is a norm, its decision says why nothing happens here."""
        return (self.view,)

    @property
    def changing(self) -> tuple[Value, ...]:
        """Values that go or whose content changes, so that nothing else may see them."""
        return ()


@dataclass(frozen=True, eq=False, slots=True)
class Target:
    """Where a map goes on to, and as what."""

    direction: Direction
    value: Value
    map: Map


@dataclass(frozen=True, eq=False, slots=True)
class Step:
    """What a rule does at one operation: change its constants, insert, send maps onward.

    A step with a ``view`` absorbs something there, and the decision names the operation. A step with
    ``remove`` takes the operation out.
    """

    view: View | None = None
    onward: tuple[Target, ...] = ()
    inserted: tuple[Insert, ...] = ()
    remove: bool = False


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Premised(Generic[A]):
    """What every rule states: its name, the identity that it rests on, and what must be true.

    ``premises`` pairs each premise with its test: ``None`` where it holds, else a sentence that says what stands in
    the way. A test may rely on the premises before it.
    """

    name: str
    law: Law
    premises: tuple[tuple[Premise, Callable[[A], str | None]], ...]

    def refusal(self, asked: A) -> Refusal | None:
        """The first premise that does not hold, and why."""
        for premise, test in self.premises:
            because = test(asked)
            if because is not None:
                return Refusal(premise, because)
        return None


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Rule(Premised[Carry[V, M]], Generic[V, M]):
    """How a travelling map meets one kind of operation: from which side, what must be true, what happens.

    ``steps`` gives alternatives, best first; the engine takes the first that leads to a whole plan.
    """

    map: type[M]
    view: type[V]
    directions: tuple[Direction, ...]
    steps: Callable[[Carry[V, M]], Iterable[Step]]


P = TypeVar("P", bound=Place[Any])


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Rewrite(Premised[P], Generic[V, P]):
    """A rewrite around one operation that no travelling map asks for: it makes the model smaller by itself.

    ``places`` says where its structure is, whether or not anything can be done there; ``plan`` says what is done
    where every premise holds.
    """

    view: type[V]
    places: Callable[[Graph, V], Iterable[P]]
    plan: Callable[[P], Plan]

    def answers(self, graph: Graph, view: V) -> Iterator[tuple[P, Plan | Refusal]]:
        """Every place around ``view``, and what is to be done there, or why nothing."""
        for place in self.places(graph, view):
            native = next((refusal for part in place.parts for refusal in part.refusals), None)
            yield place, native or self.refusal(place) or self.plan(place)
