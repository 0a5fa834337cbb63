"""``normfold fold``."""

from __future__ import annotations

from typing import Literal

import click

from normfold.cli.answer import Answer
from normfold.cli.options import CUSTOM_OPS, FEEDS, FILE, SEED, SHAPES, Tell, verb


@click.command("fold")
@click.argument("model", type=FILE)
@click.option("-o", "--output", type=FILE, help="Where to write the folded model.")
@SHAPES
@FEEDS
@click.option("--only", multiple=True, metavar="GLOB", help="Fold norms whose site matches; repeatable.")
@click.option("--skip", multiple=True, metavar="GLOB", help="Keep norms whose site matches; repeatable.")
@click.option("--dry-run", is_flag=True, help="Decide and print; write nothing, run nothing.")
@SEED
@CUSTOM_OPS
@click.option(
    "--external-data",
    type=click.Choice(["auto", "always", "never"]),
    default="auto",
    show_default=True,
    help="Keep weights in a file of their own; 'auto' does as the source does.",
)
@click.option("--no-verify", is_flag=True, help="Write the result without comparing it with the source.")
@click.option("--in-place", is_flag=True, help="Write over MODEL.")
@verb("fold")
def command(
    *,
    model: str,
    output: str | None,
    shapes: tuple[tuple[str, tuple[int, ...]], ...],
    feeds: str | None,
    only: tuple[str, ...],
    skip: tuple[str, ...],
    dry_run: bool,
    seed: int,
    custom_ops: tuple[str, ...],
    external_data: Literal["auto", "always", "never"],
    no_verify: bool,
    in_place: bool,
    tell: Tell,
    detail: int,
) -> Answer:
    """Fold the norms of MODEL, compare the result with it, and write it to the file given with -o."""
    from normfold import api
    from normfold.report import document, text

    target = api.output_path(model, output, in_place=in_place, dry_run=dry_run)
    try:
        done = api.fold(
            model,
            target,
            inputs=dict(shapes),
            feeds=feeds,
            only=only,
            skip=skip,
            seed=seed,
            custom_ops=custom_ops,
            verify=not no_verify,
            external_data=external_data,
            in_place=in_place,
            dry_run=dry_run,
            tell=tell,
        )
    except api.UnprovenError as error:
        done, unproven = error.result, error
    else:
        unproven = None
    written = None if unproven or dry_run else target
    title = f"{model} -> {written}" if written else f"{model}: nothing written"
    return Answer(
        command="fold",
        result=document.fold_record(done.decisions, done.verification, source=model, output=written),
        show=lambda console: text.show_fold(console, title, done.decisions, done.verification, detail=detail),
        exit_code=unproven.exit_code if unproven else 0,
        error=unproven,
    )
