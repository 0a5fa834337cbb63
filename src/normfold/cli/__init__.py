"""The command line: one file a verb, argument parsing only."""

from __future__ import annotations

from normfold.cli.frame import main

__all__ = ["main"]
