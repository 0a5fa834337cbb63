"""Which norms a user wants folded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from normfold.core import driver
from normfold.core.costs import CostTable
from normfold.core.graph import Graph
from normfold.records import Refusal


@dataclass(frozen=True, slots=True)
class Selection:
    """Glob patterns on sites: norms that match one of ``skip``, or none of ``only`` where there are any, are kept."""

    only: Sequence[str] = ()
    skip: Sequence[str] = ()

    def unmatched(self, sites: Iterable[str]) -> tuple[str, ...]:
        """The patterns that match none of ``sites``: misspelt ones, most likely."""
        known = tuple(sites)
        return tuple(
            pattern for pattern in (*self.only, *self.skip) if not any(fnmatchcase(site, pattern) for site in known)
        )

    def refusal(self, site: str) -> Refusal | None:
        """Why ``site`` was left out, if it was."""
        return driver.excluded(site, self.only, self.skip, {})

    def fold(self, graph: Graph, dropped: Mapping[str, Refusal], costs: CostTable | None = None) -> driver.Folding:
        """Fold what is selected in ``graph``, but for the sites that are ``dropped``."""
        return driver.fold(graph, only=self.only, skip=self.skip, exclude=dropped, costs=costs)
