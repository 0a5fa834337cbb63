"""``normfold env``."""

from __future__ import annotations

import click

from normfold.cli.command import CommandResult, verb
from normfold.records import Progress


@click.command("env")
@verb("env")
def command(*, progress: Progress, detail: int) -> CommandResult:
    """Show the versions, execution providers and processor features that results depend on."""
    from normfold.report import environment, text

    progress("looking around")
    found = environment.environment()
    return CommandResult(
        command="env",
        result=found,
        show=lambda console: text.show_pairs(console, environment.lines(found, short=detail < 0)),
    )
