"""How many processors there are to use, and how many cores they belong to."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

TOPOLOGY: Final = Path("/sys/devices/system/cpu")


def usable(cpus: Sequence[int] = ()) -> tuple[int, ...]:
    """``cpus``, or where there are none, the processors that this process may use."""
    if cpus:
        return tuple(cpus)
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def cores(cpus: Sequence[int]) -> int:
    """Distinct cores among ``cpus``; where the topology is unknown, each is one."""
    return len({_core(cpu) for cpu in cpus})


def _core(cpu: int) -> tuple[str, ...]:
    folder = TOPOLOGY / f"cpu{cpu}" / "topology"
    try:
        return tuple((folder / name).read_text().strip() for name in ("physical_package_id", "core_id"))
    except OSError:
        return (str(cpu),)
