"""What a target says of itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, Self

from normfold.errors import EnvironmentUnavailableError, UsageError

if TYPE_CHECKING:
    from normfold.runtime.workers.process import Kind

FigureKind = Literal["measured", "counted", "emulated", "compiled"]
"""What a target's figures are: times by a clock on it, counts of instructions or bytes, the values that an emulator
computes, or what a compiler says. No figure is ever handed on as one of another kind."""
HINT: Final = "normfold env lists the targets, and what each of them needs."


@dataclass(frozen=True)
class Target:
    """Where models run: a worker that speaks `normfold.runtime.workers.protocol`, and what it can do."""

    name: str
    kind: FigureKind
    purpose: str
    """What it stands for, in a few words."""
    command: tuple[str, ...] = ()
    """What to start for each process."""
    travels: bool = True
    """Whether models and arrays are sent in the protocol; else the worker reads and writes this machine's files."""
    remote: bool = False
    """Whether it is another machine."""
    profiles: bool = False
    """Whether it says what each node takes."""
    tunes: bool = False
    """Whether it says which optimisers change a model, and can switch them off."""
    pools: bool = False
    """Whether the sessions of one process can share their threads."""
    limits_memory: bool = False
    """Whether it keeps to ``--memory-limit``."""
    providers: tuple[str, ...] | None = ("cpu",)
    """Execution providers that it may have; None: any."""
    kinds: Mapping[str, FigureKind] = field(default_factory=dict)
    """What figures are that come from these execution providers, where it is something else than ``kind``."""
    custom_ops: bool = False
    """Whether it loads libraries of custom operators."""
    missing: str = ""
    """Why it cannot run here; empty where it can."""
    install: str = ""
    """The one command that makes it run here."""
    exits: Mapping[int, Kind] = field(default_factory=dict)
    """Exit statuses of its command that mean something other than a crash."""

    def check(self, providers: Sequence[str], custom_ops: Sequence[str], memory_limit: int | None) -> None:
        """Raise what keeps it from running what is asked for.

        Raises:
            EnvironmentUnavailableError: ``target-unavailable``, it cannot run here.
            UsageError: ``target-unsupported``, it cannot do what the options say.
        """
        if self.missing:
            hint = f"To install it: {self.install}" if self.install else HINT
            message = f"The target {self.name} cannot run here: {self.missing}."
            raise EnvironmentUnavailableError("target-unavailable", message, hint)
        for provider in providers:
            if self.providers is not None and provider not in self.providers:
                raise self._unsupported(f"the execution provider {provider}")
        if custom_ops and not self.custom_ops:
            raise self._unsupported("libraries of custom operators")
        if memory_limit is not None and not self.limits_memory:
            raise self._unsupported("a memory limit")

    @contextmanager
    def reached(self) -> Iterator[Self]:
        """The target made ready, for as long as the ``with`` block lasts.

        Raises:
            EnvironmentUnavailableError: it cannot be reached.
        """
        yield self

    def record(self) -> dict[str, str | bool]:
        """As ``normfold env`` lists it."""
        return {
            "name": self.name,
            "kind": self.kind,
            "for": self.purpose,
            "available": not self.missing,
            "missing": self.missing,
            "install": self.install,
        }

    def check_tuning(self) -> None:
        """Raise `UsageError` ``target-unsupported`` where sessions cannot be tuned there."""
        if not self.tunes:
            raise self._unsupported("tuning")

    def kind_of(self, provider: str) -> FigureKind:
        """What figures are that come from an execution provider there."""
        return self.kinds.get(provider, self.kind)

    def check_comparing(self, provider: str) -> None:
        """Raise `UsageError` ``target-unsupported`` where figures say nothing of what a model costs."""
        if self.kind_of(provider) not in ("measured", "counted"):
            raise self._unsupported(f"comparing models on {provider}: figures are {self.kind_of(provider)}")

    def check_clock(self, provider: str, what: str) -> None:
        """Raise `UsageError` ``target-unsupported`` where there is no clock, which ``what`` is about."""
        if self.kind_of(provider) != "measured":
            raise self._unsupported(f"{what} on {provider}: figures are {self.kind_of(provider)}, not measured")

    def check_threads(self, threads: int) -> None:
        """Raise `UsageError` ``target-unsupported`` where it counts, and more than one thread would lose counts."""
        if self.kind == "counted" and threads > 1:
            raise self._unsupported("more than one thread: its figures are counts of one")

    def _unsupported(self, what: str) -> UsageError:
        return UsageError("target-unsupported", f"The target {self.name} does not support {what}.")
