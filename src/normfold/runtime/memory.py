"""How much memory there is, and keeping a process within it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

SHARE: Final = 0.9
"""Part of the available memory that one process may take."""

CGROUP: Final = Path("/sys/fs/cgroup")


def available() -> int | None:
    """Bytes that can be allocated without swapping, within the control group's limit; None where unknown."""
    bounds = [bound for bound in (_machine(), _control_group()) if bound is not None]
    return min(bounds, default=None)


def peak_of_this_process() -> int | None:
    """Most bytes that this process ever had in memory; None where unknown."""
    return _kilobytes("/proc/self/status", "VmHWM")


def peak_of(process: int) -> int | None:
    """The same of another process."""
    return _kilobytes(f"/proc/{process}/status", "VmHWM")


def address_space() -> int | None:
    """Bytes of this process's address space that are in use; None where unknown."""
    return _kilobytes("/proc/self/status", "VmSize")


def limit_this_process(limit: int | None = None, used: int | None = None) -> None:
    """Bound this process's address space by ``used`` plus ``limit``, or plus `SHARE` of the available memory.

    ``used`` is what was in use when what is limited began, by default what is in use now. Past it an allocation fails,
    which is an exception here instead of the kernel killing some process.
    Does nothing where the system has no such limit.
    """
    free, used = available(), used or address_space()
    if free is None or used is None:
        return
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    bound = used + min(int(free * SHARE), limit or free)
    if hard != resource.RLIM_INFINITY:
        bound = min(bound, hard)
    resource.setrlimit(resource.RLIMIT_AS, (bound, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


@contextmanager
def data_limit(limit: int) -> Iterator[None]:
    """Let allocations fail that would give this process ``limit`` bytes of data more than it has now.

    Libraries that are loaded and files that are mapped do not count. Does nothing where the system has no such limit.
    """
    used = _kilobytes("/proc/self/status", "VmData")
    if used is None:
        yield
        return
    import resource

    before, hard = resource.getrlimit(resource.RLIMIT_DATA)
    bound = used + limit
    resource.setrlimit(resource.RLIMIT_DATA, (bound if hard == resource.RLIM_INFINITY else min(bound, hard), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (before, hard))


def _machine() -> int | None:
    return _kilobytes("/proc/meminfo", "MemAvailable")


def _control_group() -> int | None:
    with contextlib.suppress(OSError, ValueError):
        return int((CGROUP / "memory.max").read_text()) - int((CGROUP / "memory.current").read_text())
    return None


def _kilobytes(file: str, key: str) -> int | None:
    """Bytes that ``file`` states in kB behind ``key``; None where there is no such file or line."""
    with contextlib.suppress(OSError):
        found = re.search(rf"^{key}:\s+(\d+) kB", Path(file).read_text(), re.MULTILINE)
        return int(found[1]) * 1024 if found else None
    return None
