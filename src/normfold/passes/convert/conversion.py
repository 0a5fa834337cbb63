"""What a conversion is: how norms of one kind become others, and how exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from normfold.core.graph import Graph
from normfold.core.plan import Plan
from normfold.core.views import Node, View
from normfold.records import Label, Refusal


@dataclass(frozen=True, eq=False, slots=True)
class Proposal:
    """What would become of some norms that can only be converted together: all of a stream, or one alone.

    Either ``plan`` says how, or ``refusals`` why not.
    """

    norms: tuple[Node, ...]
    plan: Plan | None = None
    refusals: tuple[Refusal, ...] = ()


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Conversion:
    """One cell of the matrix, or several that are alike.

    ``fits`` says whether a view is a norm that this is about. ``prepare`` brings the graph into a form in which more
    can be converted, by exact folds around the norms; ``proposals`` judges the norms of a graph as it is then.
    """

    name: str
    target: str
    label: Label
    fits: Callable[[View], bool]
    proposals: Callable[[Graph, Sequence[Node]], Iterator[Proposal]]
    prepare: Callable[[Graph, Sequence[Node]], None]
