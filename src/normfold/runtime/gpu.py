"""The state of NVIDIA GPUs as their driver reports it; nothing is set."""

from __future__ import annotations

import subprocess
from typing import Final

FIELDS: Final = {
    "name": "name",
    "driver_version": "driver",
    "memory.total": "memory_mib",
    "clocks.sm": "clock_mhz",
    "clocks.mem": "memory_clock_mhz",
    "clocks_event_reasons.active": "throttle_reasons",
    "power.draw": "watts",
    "temperature.gpu": "celsius",
}
"""What ``nvidia-smi`` is asked for, and its names here. Throttle reasons are NVML's bits, 0x0 for none."""
SECONDS: Final = 10.0


def look() -> list[dict[str, str]] | str:
    """The state of the GPUs, or the reason why it is unknown."""
    query = ["nvidia-smi", f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=SECONDS, check=True)
    except FileNotFoundError:
        return "there is no nvidia-smi, so no NVIDIA driver"
    except (OSError, subprocess.SubprocessError) as error:
        return " ".join(f"nvidia-smi cannot tell: {error}".split())
    rows = [[cell.strip() for cell in row.split(",")] for row in done.stdout.splitlines() if row.strip()]
    found = [dict(zip(FIELDS.values(), row, strict=True)) for row in rows if len(row) == len(FIELDS)]
    return found or "nvidia-smi lists no GPU"
