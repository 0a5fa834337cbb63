"""``normfold demo``."""

from __future__ import annotations

import click

from normfold.cli.command import CommandResult, verb
from normfold.cli.param_types import file_name
from normfold.records import Progress


@click.command("demo")
@click.option("-o", "--output", type=file_name, metavar="FILE", help="Keep the folded network in this file.")
@verb("demo")
def command(*, output: str | None, progress: Progress, detail: int) -> CommandResult:
    """Fold the small trained network shipped with normfold, and show what that changes and what not."""
    from normfold.report import document, text
    from normfold.verbs.demo import run

    shown = run.run(output, progress=progress)
    return CommandResult(
        command="demo",
        result={
            **document.fold_record(shown.decisions, shown.verification, source="digits.onnx", output=output),
            "accuracy": shown.accuracy,
            "speed": shown.speed,
        },
        show=lambda console: text.show_demo(
            console, shown.decisions, shown.verification, shown.accuracy, shown.speed, detail=detail
        ),
    )
