"""How many processors there are to use, and how many cores they belong to."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

TOPOLOGY: Final = Path("/sys/devices/system/cpu")
CPUINFO: Final = Path("/proc/cpuinfo")


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


def facts() -> dict[str, str]:
    """Fields of the first processor in Linux's list; empty on other systems."""
    try:
        first = CPUINFO.read_text(encoding="utf-8", errors="replace").split("\n\n", 1)[0]
    except OSError:
        return {}
    fields = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _colon, value in fields}


def model_name() -> str:
    """The processor's name, or that of its architecture."""
    return facts().get("model name") or platform.processor() or platform.machine()


def machine() -> dict[str, Any]:
    """What tells this machine from another one whose figures differ."""
    return {
        "system": platform.system(),
        "architecture": platform.machine(),
        "processor": model_name(),
        "cpus": os.cpu_count(),
    }


def _core(cpu: int) -> tuple[str, ...]:
    folder = TOPOLOGY / f"cpu{cpu}" / "topology"
    try:
        return tuple((folder / name).read_text().strip() for name in ("physical_package_id", "core_id"))
    except OSError:
        return (str(cpu),)
