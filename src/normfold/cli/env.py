"""``normfold env``."""

from __future__ import annotations

import click

from normfold.cli.command import CommandResult, verb
from normfold.records import Progress
from normfold.report.blocks import Detail


@click.command("env")
@verb("env")
def command(*, progress: Progress, detail: Detail) -> CommandResult:
    """Show the versions, execution providers and processor features."""
    from normfold.verbs.env import env

    found = env(progress=progress)
    return CommandResult("env", found.document(), found.report(detail))
