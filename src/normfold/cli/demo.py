"""``normfold demo``."""

from __future__ import annotations

import click

from normfold.cli.command import CommandResult, verb
from normfold.cli.param_types import file_name
from normfold.records import Progress
from normfold.report.blocks import Detail


@click.command("demo")
@click.option("-o", "--output", type=file_name, metavar="DIR", help="Folder for the model and its report.")
@verb("demo")
def command(*, output: str | None, progress: Progress, detail: Detail) -> CommandResult:
    """Optimise the small network shipped with normfold, on the pictures shipped with it."""
    from normfold.verbs.demo import demo

    done = demo(output, progress=progress)
    return CommandResult("demo", done.document(), done.report(detail))
