"""``normfold compare``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import click

from normfold.cli.command import CommandResult, verb
from normfold.cli.measuring import arguments, measuring
from normfold.cli.options import CUSTOM_OPS, INPUTS, SEED, SHAPES
from normfold.cli.param_types import file_name
from normfold.errors import FindingError
from normfold.records import Progress
from normfold.report.blocks import Detail


@click.command("compare")
@click.argument("a", type=file_name)
@click.argument("b", type=file_name)
@click.option("--force", is_flag=True, help="Compare stored figures even if they are from different environments.")
@click.option(
    "--threshold",
    type=click.FloatRange(min=0, min_open=True, max=100),
    default=2.0,
    show_default=True,
    help="Relative difference from which B counts as slower or faster, in percent.",
)
@measuring
@SHAPES
@INPUTS
@SEED
@CUSTOM_OPS
@verb("compare", "60s")
def command(
    *, a: str, b: str, force: bool, threshold: float, progress: Progress, detail: Detail, **options: Any
) -> CommandResult:
    """Test whether B is slower than A.

    Exit 1 where it is, by more than the threshold.

    A and B are two models, timed beside one another, or two files that `normfold bench -o` wrote.
    """
    from normfold.verbs.compare import CompareResult, compare

    given = arguments(options)
    effort = replace(given.pop("effort"), details=False)
    try:
        found = compare(a, b, force=force, threshold=threshold / 100, effort=effort, progress=progress, **given)
    except FindingError as error:
        found = CompareResult(a, b, refused=error)
    finding = found.refused is not None or found.slower
    return CommandResult("compare", found.document(), found.report(detail), exit_code=int(finding))
