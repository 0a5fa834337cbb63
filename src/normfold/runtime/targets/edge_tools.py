"""The packages of npm that targets need, and the folder in which the user's command puts them.

Nothing is downloaded from here.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Final

FOLDER: Final = "NORMFOLD_EDGE_TOOLS"
"""Environment variable with another folder than the usual one."""
VERSIONS: Final = {"onnxruntime-node": "1.30.0", "onnxruntime-web": "1.30.0"}
"""The versions that the commands install."""
OLDEST: Final = (1, 22)
"""Older ones lack settings that a measurement needs."""


def folder() -> Path:
    """Where npm's packages are looked for."""
    if given := os.environ.get(FOLDER):
        return Path(given)
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data) / "normfold" / "edge-tools"


def package(name: str) -> Path:
    """The folder of a package of npm."""
    return folder() / "node_modules" / name


def missing(name: str) -> str:
    """Why a package of npm cannot be used; empty where it can."""
    try:
        found = json.loads((package(name) / "package.json").read_text(encoding="utf-8"))
        version = str(found["version"])
        number = tuple(map(int, version.split(".")[:2]))
    except (OSError, ValueError, KeyError, TypeError):
        return f"{name} is not installed in {folder()}"
    return "" if number >= OLDEST else f"{name} {version} is too old"


def command(*names: str, first: str = "") -> str:
    """What installs packages there, after the Debian packages ``first``.

    None of the packages' own scripts are run, which would download more.
    """
    debian = f"apt-get install {first} && " if first else ""
    wanted = " ".join(f"{name}@{VERSIONS[name]}" for name in names)
    return f"{debian}npm install --ignore-scripts --prefix {folder()} {wanted}"
