"""Energy used by the processor packages, from Linux's RAPL counters."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

POWERCAP: Final = Path("/sys/class/powercap")


@dataclass(frozen=True, slots=True)
class Meter:
    """The packages' counters, which start again at 0 from ``wraps`` microjoules on."""

    files: tuple[Path, ...]
    wraps: tuple[int, ...]

    def read(self) -> tuple[int, ...]:
        """Microjoules used so far, one number a package."""
        return tuple(int(file.read_text()) for file in self.files)

    def used(self, before: tuple[int, ...], after: tuple[int, ...]) -> int:
        """Microjoules between two readings, at most one turn of a counter apart."""
        pairs = zip(before, after, self.wraps, strict=True)
        return sum((late - early) % (wrap + 1) for early, late, wrap in pairs)


def meter(root: Path = POWERCAP) -> Meter | str:
    """The machine's meter, or why there is none."""
    packages = sorted(path for path in root.glob("*-rapl:*") if path.name.count(":") == 1)
    if not packages:
        return f"no RAPL counters: {root} has no package domain"
    try:
        wraps = tuple(int((path / "max_energy_range_uj").read_text()) for path in packages)
        found = Meter(tuple(path / "energy_uj" for path in packages), wraps)
        found.read()
    except OSError as error:
        return f"RAPL counters cannot be read: {error.strerror} ({error.filename})"
    return found
