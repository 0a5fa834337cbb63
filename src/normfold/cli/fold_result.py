"""The result of the commands that fold: decisions, proof, and what was written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from normfold.cli.command import CommandResult

if TYPE_CHECKING:
    from normfold.report.blocks import Detail
    from normfold.verbs.fold_result import FoldResult


def fold_result(
    command: str, source: str, written: str | None, job: Callable[[], FoldResult[Any]], detail: Detail
) -> CommandResult:
    """The result of ``job``; where it refuses to hand its result over, what it knows about it."""
    from normfold.pipeline.prove import UnprovenError
    from normfold.verbs.fold_result import FoldResult

    try:
        done = replace(job(), source=source, output=written)
    except UnprovenError as refusal:
        finding = refusal.exit_code == 1
        done = FoldResult(None, refusal.decisions, refusal.verification, source=source)
        error = None if finding else refusal
        return CommandResult(command, done.document(), done.report(detail), refusal.exit_code, error)
    return CommandResult(command, done.document(), done.report(detail))
