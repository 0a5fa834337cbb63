"""What every pass hands back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from normfold.records import Cleaning, Decision, Pair, Size

T = TypeVar("T")


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
