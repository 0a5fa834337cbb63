"""Things that belong together, joined pair by pair."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise


class Joined:
    """Names in groups."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}

    def find(self, name: str) -> str:
        """What the group of ``name`` is known by."""
        while (parent := self._parent.setdefault(name, name)) != name:
            self._parent[name] = self._parent[parent]
            name = parent
        return name

    def join(self, names: Sequence[str]) -> None:
        """All ``names`` are one group."""
        for first, second in pairwise(names):
            self._parent[self.find(first)] = self.find(second)

    def groups(self, names: Iterable[str]) -> list[list[str]]:
        """``names`` by their groups."""
        found: dict[str, list[str]] = {}
        for name in names:
            found.setdefault(self.find(name), []).append(name)
        return list(found.values())
