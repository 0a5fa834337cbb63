"""Targets: where models run, and what kind of figures come from there. One file a target."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from normfold.errors import UsageError, suggestion
from normfold.runtime.targets.arm import arm64, cores
from normfold.runtime.targets.base import FigureKind, Target
from normfold.runtime.targets.browser import browser
from normfold.runtime.targets.local import LOCAL
from normfold.runtime.targets.node import node
from normfold.runtime.targets.ssh import EXAMPLE, SCHEME, ssh

__all__ = ["LOCAL", "TARGETS", "FigureKind", "Target", "find", "listed"]

TARGETS: Final[dict[str, Callable[[], Target]]] = {
    "local": lambda: LOCAL,
    "node": node,
    "browser": browser,
    "arm64": arm64,
    **cores(),
}
"""By name; what is called looks at the machine."""


def find(name: str) -> Target:
    """The target called ``name``, or at this address.

    Raises:
        UsageError: there is none.
    """
    if name.startswith(SCHEME):
        return ssh(name)
    if name not in TARGETS:
        hint = suggestion(name, TARGETS) or f"There are: {', '.join((*TARGETS, EXAMPLE))}."
        raise UsageError("usage", f"There is no target {name!r}.", hint)
    return TARGETS[name]()


def listed() -> tuple[Target, ...]:
    """All that there are, with an example of an address."""
    return (*(make() for make in TARGETS.values()), ssh(EXAMPLE))
