"""The command line: one file a verb, argument parsing only."""

from __future__ import annotations

from normfold.cli.application import main

__all__ = ["main"]
