"""``normfold env``."""

from __future__ import annotations

import click

from normfold.cli.answer import Answer
from normfold.cli.options import Tell, verb


@click.command("env")
@verb("env")
def command(*, tell: Tell, detail: int) -> Answer:
    """Show the versions, execution providers and processor features that results depend on."""
    from normfold.report import environment, text

    tell("looking around")
    found = environment.environment()
    return Answer(
        command="env",
        result=found,
        show=lambda console: text.show_pairs(console, environment.lines(found, short=detail < 0)),
    )
