"""The result of the commands that fold: decisions, proof, and what was written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from normfold.cli.command import CommandResult

if TYPE_CHECKING:
    from normfold.verbs.fold import FoldResult


def fold_result(
    command: str, source: str, written: str | None, job: Callable[[], FoldResult], detail: int
) -> CommandResult:
    """The result of ``job``; where it refuses to hand its result over, what it knows about it."""
    from normfold.verbs import fold as api

    try:
        done = job()
    except api.UnprovenError as refusal:
        finding = refusal.exit_code == 1
        result = _result(command, source, None, refusal, detail)
        return replace(result, exit_code=refusal.exit_code, error=None if finding else refusal)
    return _result(command, source, written, done, detail)


def _result(command: str, source: str, written: str | None, done: Any, detail: int) -> CommandResult:
    from normfold.report import document, text

    title = f"{source} -> {written}" if written else f"{source}: nothing written"
    record = document.fold_record(done.decisions, done.verification, source=source, output=written)
    names = {key: list(found) for key in ("removed", "added") if (found := getattr(done, key, ()))}
    return CommandResult(
        command=command,
        result={**record, **names},
        show=lambda console: text.show_fold(console, title, done.decisions, done.verification, detail=detail),
    )
