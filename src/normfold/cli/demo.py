"""``normfold demo``."""

from __future__ import annotations

import click

from normfold.cli.command import CommandResult, verb
from normfold.cli.param_types import file_name
from normfold.records import Progress
from normfold.report.blocks import Detail


@click.command("demo")
@click.option("-o", "--output", type=file_name, metavar="FILE", help="Where to write the folded network.")
@verb("demo")
def command(*, output: str | None, progress: Progress, detail: Detail) -> CommandResult:
    """Fold the small network shipped with normfold, and measure it."""
    from normfold.verbs.demo import demo

    done = demo(output, progress=progress)
    return CommandResult("demo", done.document(), done.report(detail))
