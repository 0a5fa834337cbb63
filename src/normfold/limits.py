"""How much time and memory a job may take: set once where it begins, and looked up wherever work is done.

Limits are those of a context (`contextvars`), so that they need no argument on the way down. Work that may take long
calls `check`. What runs in a worker process is ended from outside; a module in the caller's own process cannot be, so
that limits hold between its forward passes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from normfold.errors import EnvironmentUnavailableError, UsageError

STATM: Final = Path("/proc/self/statm")
PAGE: Final = 4096
USUAL_SECONDS: Final = 900.0
"""Time limit of verbs that measure nothing."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What is left for a job."""

    until: float | None = None
    """On the monotonic clock, in seconds; None: no limit."""
    seconds: float = 0.0
    """The time limit that ``until`` came from."""
    given: bool = False
    """Whether somebody asked for it."""
    memory: int | None = None
    """Bytes for each process; None: what the machine has."""
    memory_from: int = 0
    """Bytes that this process had when the job began."""


_LIMITS: ContextVar[Limits] = ContextVar("normfold_limits", default=Limits())  # noqa: B039 - it is frozen


@contextmanager
def limited(
    time_limit: float | None = None, memory_limit: int | None = None, usual: float | None = USUAL_SECONDS
) -> Iterator[None]:
    """Limit what is done in the ``with`` block to so many seconds and bytes; an outer limit that is closer holds.

    ``usual`` is the time limit where there is neither one here nor an outer one.

    Raises:
        UsageError: a limit is not above zero.
    """
    outer = _LIMITS.get()
    for name, limit in (("time_limit", time_limit), ("memory_limit", memory_limit)):
        if limit is not None and not limit > 0:
            raise UsageError("usage", f"{name} is {limit!r}; it has to be more than zero.")
    until, seconds, given = outer.until, outer.seconds, outer.given or time_limit is not None
    if time_limit is None and until is None:
        time_limit = usual
    if time_limit is not None and (until is None or time.monotonic() + time_limit < until):
        until, seconds = time.monotonic() + time_limit, time_limit
    memory, memory_from = outer.memory, outer.memory_from
    if memory_limit is not None and (memory is None or memory_limit < memory):
        memory, memory_from = memory_limit, _resident()
    token = _LIMITS.set(Limits(until, seconds, given, memory, memory_from))
    try:
        yield
    finally:
        _LIMITS.reset(token)


def remaining() -> float | None:
    """Seconds that are left, at least 0; None where there is no limit."""
    until = _LIMITS.get().until
    return None if until is None else max(0.0, until - time.monotonic())


def is_given() -> bool:
    """Whether there is a time limit that somebody asked for, and not only the usual one."""
    return _LIMITS.get().given


def memory_limit() -> int | None:
    """Bytes that one process may take; None where there is no limit."""
    return _LIMITS.get().memory


def check() -> None:
    """Go on, if there is time and memory left.

    Raises:
        EnvironmentUnavailableError: ``timed-out`` or ``out-of-memory``.
    """
    limits = _LIMITS.get()
    if limits.until is not None and time.monotonic() >= limits.until:
        raise timed_out()
    if limits.memory is not None and _resident() - limits.memory_from > limits.memory:
        raise out_of_memory()


def timed_out() -> EnvironmentUnavailableError:
    """The error that the time is up."""
    limit = f" of {_LIMITS.get().seconds:g} s" if _LIMITS.get().until is not None else ""
    return EnvironmentUnavailableError("timed-out", f"The time limit{limit} is reached.", "Allow more: --time-limit.")


def out_of_memory() -> EnvironmentUnavailableError:
    """The error that there is no memory left."""
    limit = _LIMITS.get().memory
    said = "There is not enough memory."
    if limit is not None:
        said = f"The memory limit of {limit / (1 << 30):g} GiB is reached."
    return EnvironmentUnavailableError("out-of-memory", said, "Allow more: --memory-limit.")


def _resident() -> int:
    """Bytes of this process in memory; 0 where unknown."""
    try:
        return int(STATM.read_text().split()[1]) * PAGE
    except OSError:
        return 0
