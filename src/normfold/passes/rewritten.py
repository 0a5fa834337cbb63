"""What every pass hands back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from normfold.core.driver import Folding
from normfold.core.graph import Graph
from normfold.records import Cleaning, Decision, Fusion, Pair, Refusal, Size

T = TypeVar("T")

GraphPass = Callable[[Graph, Mapping[str, Refusal]], Folding]
"""What a pass does to a graph, whatever its backend, but for sites that are dropped, each with the reason."""


@dataclass(frozen=True, slots=True)
class Rewritten(Generic[T]):
    """What a pass made of a copy of its source."""

    model: T
    decisions: tuple[Decision, ...]
    pairs: tuple[Pair, ...] = ()
    """Values of the source and of the result that must agree, in topological order."""
    changed: bool = True
    """Whether the pass changed anything at all."""
    sizes: tuple[Size, Size] | None = None
    """Of the source and of the result."""
    cleaning: Cleaning | None = None
    """What was taken out besides; None where that was not looked for."""
    fused: tuple[Fusion, ...] | None = None
    """What became one operation of several; None where that was not asked for."""
