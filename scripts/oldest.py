"""Print the oldest versions that the package says it runs with, as pip constraints."""

from __future__ import annotations

import tomllib
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"


def oldest() -> list[str]:
    """``name==version`` for each dependency, at its lower bound."""
    dependencies = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]["dependencies"]
    return [dependency.replace(">=", "==") for dependency in dependencies]


if __name__ == "__main__":
    print("\n".join(oldest()))
