"""What a rule is, and what it is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Generic, Literal, TypeVar

from normfold.core.algebra import Affine
from normfold.core.graph import Graph
from normfold.core.plan import Insert, Plan
from normfold.core.views import Value, View
from normfold.records import Premise, Refusal

Direction = Literal["backward", "forward"]
BACKWARD: Final = "backward"
"""Towards the producer: the operation's output is to become ``affine(output)``."""
FORWARD: Final = "forward"
"""Towards the consumers: the operation gets ``x`` where it used to get ``affine(x)``."""
EITHER: Final[tuple[Direction, ...]] = (BACKWARD, FORWARD)

V = TypeVar("V", bound=View)


@dataclass(frozen=True, eq=False, slots=True)
class Carry(Generic[V]):
    """An affine map that has arrived at an operation.

    ``port`` is the index of the output it arrives at (backward) or of the data input (forward).
    """

    graph: Graph
    view: V
    direction: Direction
    affine: Affine
    port: int = 0

    @property
    def label(self) -> str:
        """What to call the operation when talking to a user."""
        return self.graph.label(self.view.node)


@dataclass(frozen=True, eq=False, slots=True)
class Target:
    """Where a map goes on to, and as what."""

    direction: Direction
    value: Value
    affine: Affine


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


@dataclass(frozen=True, eq=False, slots=True)
class Rule(Generic[V]):
    """One rewrite: where it applies, from which side, what must be true, what it does.

    ``premises`` pairs each premise's name with its test: ``None`` where it holds, else a sentence that says what
    stands in the way. A test may rely on the premises before it. ``steps`` gives alternatives, best first; the
    engine takes the first that leads to a whole plan.
    """

    name: str
    directions: tuple[Direction, ...]
    view: type[V]
    premises: tuple[tuple[Premise, Callable[[Carry[V]], str | None]], ...]
    steps: Callable[[Carry[V]], Iterable[Step]]


@dataclass(frozen=True, eq=False, slots=True)
class Rewrite(Generic[V]):
    """A rewrite around one operation that no travelling map asks for: it makes the model smaller by itself.

    Among its plans it may say why there is none.
    """

    name: str
    view: type[V]
    plans: Callable[[Graph, V], Iterable[Plan | Refusal]]
