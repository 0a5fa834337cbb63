"""``normfold env``."""

from __future__ import annotations

import click

from normfold.cli.command import CommandResult, verb
from normfold.records import Progress
from normfold.report.blocks import Detail


@click.command("env")
@click.option("--target", metavar="NAME", help="Only say whether this target can run here, or the command for that.")
@verb("env")
def command(*, target: str | None, progress: Progress, detail: Detail) -> CommandResult:
    """Show the versions, execution providers, processor features and targets."""
    from normfold.verbs.env import env

    found = env(target=target, progress=progress)
    return CommandResult("env", found.document(), found.report(detail))
