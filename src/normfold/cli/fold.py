"""``normfold fold``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import click

from normfold.cli.answer import Answer
from normfold.cli.options import CUSTOM_OPS, FEEDS, SEED, SHAPES, Tell, file_name, verb
from normfold.decisions import Decision, Verification
from normfold.errors import UsageError


@click.command("fold")
@click.argument("model", type=file_name)
@click.option("-o", "--output", type=file_name, metavar="FILE", help="Where to write the folded model.")
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
@click.option("--no-verify", "unverified", is_flag=True, help="Write the result without comparing it with the source.")
@click.option("--in-place", is_flag=True, help="Write over MODEL.")
@click.option(
    "--preprocess",
    multiple=True,
    metavar="KEY=VALUE",
    help="Take the raw picture, for which MODEL gets (scale*x - mean)/std: mean=0.485:0.456:0.406, std=..., "
    "scale=1/255, layout=NHWC, channels=BGR, dtype=uint8, input=NAME; repeatable.",
)
@click.option("--allow-inserted", is_flag=True, help="Insert operations for a fold also where that does not pay.")
@click.option(
    "--provider",
    default="cpu",
    show_default=True,
    metavar="NAME",
    help="Execution provider whose measured costs decide what may be inserted.",
)
@verb("fold")
def command(
    *,
    model: str,
    output: str | None,
    shapes: tuple[tuple[str, tuple[int, ...]], ...],
    unverified: bool,
    in_place: bool,
    dry_run: bool,
    preprocess: tuple[str, ...],
    tell: Tell,
    detail: int,
    **options: Any,
) -> Answer:
    """Fold the norms of MODEL, compare the result with it, and write it to the file given with -o."""
    from normfold import api
    from normfold.preprocess import Preprocess

    target = output or (model if in_place else None)
    if target is None and not dry_run:
        raise UsageError("usage", "Nothing says where to write.", "Add -o FILE, --in-place or --dry-run.")
    try:
        done = api.fold(
            model,
            target,
            inputs=dict(shapes),
            verify=not unverified,
            in_place=in_place,
            dry_run=dry_run,
            preprocess=Preprocess.parse(preprocess),
            tell=tell,
            **options,
        )
    except api.UnprovenError as refusal:
        finding = refusal.exit_code == 1
        answer = _answer(model, None, refusal.decisions, refusal.verification, detail)
        return replace(answer, exit_code=refusal.exit_code, error=None if finding else refusal)
    return _answer(model, None if dry_run else target, done.decisions, done.verification, detail)


def _answer(model: str, written: str | None, decisions: Sequence[Decision], proof: Verification, detail: int) -> Answer:
    from normfold.report import document, text

    title = f"{model} -> {written}" if written else f"{model}: nothing written"
    return Answer(
        command="fold",
        result=document.fold_record(decisions, proof, source=model, output=written),
        show=lambda console: text.show_fold(console, title, decisions, proof, detail=detail),
    )
