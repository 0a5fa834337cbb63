"""64-bit Arm without a board: the real aarch64 packages under QEMU's emulation of user programs.

What it computes is what a board computes, instruction by instruction; what it takes is no board's time. A plug-in of
the emulator counts what is executed instead, for the processor that a board has.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Final, Self

from normfold.runtime.targets import edge_tools
from normfold.runtime.targets.agent import agent
from normfold.runtime.targets.base import FigureKind, Target

EMULATOR: Final = "qemu-aarch64"
PACKAGES: Final = {EMULATOR: "qemu-user", "cc": "gcc libc6-dev"}
"""Debian's packages by the programs that come in them."""
KEYRING: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
"""What Debian's packages are checked with; other systems have it in the package of its name."""
INSTALL: Final = Path(__file__).with_name("emulator") / "install.sh"
PLUGIN: Final = "counts.so"
PYTHON: Final = "usr/bin/python3.11"
CORES: Final = {"cortex-a53": "Cortex-A53", "cortex-a76": "Cortex-A76"}
"""Processors by the names that QEMU has for them: without, and with, instructions for dot products of bytes."""
NO_PLUGINS: Final = f"this {EMULATOR} takes no plug-ins, as that of Debian 12 does (version 7.2)"
USUAL: Final = "cortex-a76"
SEED: Final = "1"
"""Of the random bytes that a program starts with, and of Python's hashes."""


@dataclass(frozen=True)
class ArmTarget(Target):
    """Processes of an emulated processor."""

    @contextmanager
    def reached(self) -> Iterator[Self]:
        """The agent is there for as long as the ``with`` block lasts."""
        with tempfile.TemporaryDirectory(prefix="normfold-") as folder:
            path = Path(folder) / "agent.pyz"
            path.write_bytes(agent())
            yield replace(self, command=(*self.command, str(path)))


def arm64() -> Target:
    """The target whose figures are outputs."""
    return _target("arm64", USUAL, "emulated", "outputs of ONNX Runtime for 64-bit Arm, emulated on this machine")


def cores() -> dict[str, Callable[[], Target]]:
    """Those whose figures are counts, by name."""
    return {core: partial(_counting, core) for core in CORES}


def _counting(core: str) -> Target:
    return _target(core, core, "counted", f"instructions of an emulated {CORES[core]}, and their outputs")


def _target(name: str, core: str, kind: FigureKind, purpose: str) -> Target:
    folder, counts = edge_tools.folder() / "arm64", kind == "counted"
    root = folder / core
    environment = {
        "PYTHONPATH": folder / "site",
        "PYTHONHASHSEED": SEED,
        "MALLOC_ARENA_MAX": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "ORT_DISABLE_TELEMETRY": "1",
    }
    command = (
        # Addresses decide which way some copies and comparisons go.
        *("setarch", "--addr-no-randomize", shutil.which(EMULATOR) or EMULATOR, "-cpu", core, "-seed", SEED),
        *("-L", str(root)),
        *(part for item in environment.items() for part in ("-E", "{}={}".format(*item))),
        *(("-plugin", str(folder / PLUGIN)) if counts else ()),
        *(str(root / PYTHON), "-S"),
    )
    absent = [program for program in PACKAGES if shutil.which(program) is None]
    packages = [*(PACKAGES[program] for program in absent), *(() if KEYRING.exists() else (KEYRING.stem,))]
    missing = _missing(folder, counts=counts, emulator=EMULATOR not in absent)
    # No command brings another release of the emulator.
    install = "" if missing == NO_PLUGINS else _command(folder, packages)
    return ArmTarget(name, kind, purpose, command, missing=missing, install=install)


def _missing(folder: Path, *, counts: bool, emulator: bool) -> str:
    """Why it cannot run here; empty where it can."""
    if not emulator:
        return f"there is no program {EMULATOR}"
    try:
        found, here = (folder / "onnxruntime").read_text(encoding="utf-8").strip(), version("onnxruntime")
    except OSError:
        return f"ONNX Runtime for arm64 is not installed in {folder}"
    if found != here:
        return f"ONNX Runtime for arm64 is {found} in {folder}, and {here} here"
    if counts and not (folder / PLUGIN).is_file():
        return f"the plug-in that counts is not built in {folder}"
    return NO_PLUGINS if counts and not _takes_plugins() else ""


@cache
def _takes_plugins() -> bool:
    said = subprocess.run([EMULATOR, "--help"], capture_output=True, text=True, check=False)
    return "-plugin" in said.stdout


def _command(folder: Path, packages: Sequence[str]) -> str:
    debian = f"apt-get install {' '.join(packages)} && " if packages else ""
    return f"{debian}sh {INSTALL} {folder} {version('onnxruntime')}"
