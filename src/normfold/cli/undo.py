"""``normfold undo``."""

from __future__ import annotations

import click

from normfold.cli.command import CommandResult, verb
from normfold.cli.param_types import file_name
from normfold.records import Progress
from normfold.report.blocks import Detail


@click.command("undo")
@click.argument("folder", type=file_name, metavar="DIR")
@click.option("-o", "--output", type=file_name, metavar="FILE", help="Where to write the source; DIR/source.onnx.")
@verb("undo")
def command(*, folder: str, output: str | None, progress: Progress, detail: Detail) -> CommandResult:
    """Give the source of an optimised model back.

    DIR is what `normfold optimize` wrote. The source is looked for where it was, and known by its SHA-256.
    """
    from normfold.verbs.undo import undo

    done = undo(folder, output=output, progress=progress)
    return CommandResult("undo", done.document(), done.report(detail))
