"""``normfold inspect``."""

from __future__ import annotations

import click

from normfold.cli.answer import Answer
from normfold.cli.options import Tell, file_name, verb


@click.command("inspect")
@click.argument("model", type=file_name)
@verb("inspect")
def command(*, model: str, tell: Tell, detail: int) -> Answer:
    """List the norms of MODEL, the health of their statistics, and what 'fold' would decide."""
    from normfold import api
    from normfold.report import document, text

    norms = api.inspect(model, tell=tell).norms
    return Answer(
        command="inspect",
        result=document.inspect_record(norms, source=model),
        show=lambda console: text.show_norms(console, model, norms, detail=detail),
    )
