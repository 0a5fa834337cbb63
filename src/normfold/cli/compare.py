"""``normfold compare``."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import click

from normfold.cli.command import CommandResult, verb
from normfold.cli.measuring import arguments, measuring
from normfold.cli.options import CUSTOM_OPS, INPUTS, SEED, SHAPES
from normfold.cli.param_types import file_name
from normfold.errors import FindingError
from normfold.records import Progress
from normfold.report.blocks import Detail, Paragraph

if TYPE_CHECKING:
    from normfold.measure.stored import StoredComparison

REMARK: Final = "Measured at different moments: what the machine did in between is not in the interval."


@click.command("compare")
@click.argument("a", type=file_name)
@click.argument("b", type=file_name)
@click.option("--force", is_flag=True, help="Compare figures from different environments, too.")
@click.option(
    "--threshold",
    type=click.FloatRange(min=0, min_open=True, max=100),
    default=2.0,
    show_default=True,
    help="Difference that matters, in percent.",
)
@measuring
@SHAPES
@INPUTS
@SEED
@CUSTOM_OPS
@verb("compare")
def command(
    *, a: str, b: str, force: bool, threshold: float, progress: Progress, detail: Detail, **options: Any
) -> CommandResult:
    """Say whether B is slower than A; exit 1 where it is, by more than the threshold.

    A and B are two models, timed beside one another, or two files that `normfold bench -o` wrote.
    """
    from normfold.measure.documents import compare_record
    from normfold.verbs import bench as latency
    from normfold.verbs.figures import comparison_blocks

    given = arguments(options)
    effort = replace(given.pop("effort"), details=False)
    found: tuple[StoredComparison, ...] = ()
    refused = None
    try:
        found = latency.compare(a, b, force=force, threshold=threshold / 100, effort=effort, progress=progress, **given)
    except FindingError as error:
        refused = error
    remark = (Paragraph(REMARK),) if detail > Detail.SUMMARY and latency.is_stored(a) else ()
    return CommandResult(
        command="compare",
        result=compare_record(a, b, found, refused),
        report=(*comparison_blocks(found, refused), *remark),
        exit_code=int(refused is not None or any(one.comparison.verdict == "slower" for one in found)),
    )
