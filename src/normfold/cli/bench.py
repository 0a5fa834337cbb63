"""``normfold bench``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import click

from normfold.cli.command import CommandResult, verb
from normfold.cli.measuring import DEADLINE, MISSES, arguments, measuring
from normfold.cli.options import CUSTOM_OPS, INPUTS, SEED, SHAPES, refuse_overwriting
from normfold.cli.param_types import file_name
from normfold.records import Progress
from normfold.report.blocks import Detail


@click.command("bench")
@click.argument("models", type=file_name, nargs=-1, required=True, metavar="MODEL...")
@click.option("-o", "--output", type=file_name, metavar="FILE", help="Write figures and raw samples as JSON.")
@measuring
@DEADLINE
@MISSES
@click.option("--profile-nodes", "nodes", is_flag=True, help="List the nodes that take longest.")
@click.option(
    "--no-details", "plain", is_flag=True, help="Do not measure memory and node times, which take more processes."
)
@SHAPES
@INPUTS
@SEED
@CUSTOM_OPS
@verb("bench", "60s")
def command(
    *,
    models: tuple[str, ...],
    output: str | None,
    nodes: bool,
    plain: bool,
    misses: float,
    progress: Progress,
    detail: Detail,
    **options: Any,
) -> CommandResult:
    """Measure the latency of each MODEL beside that of the first.

    ONNX Runtime runs the models in turns, in fresh processes.
    Exit 0 where all figures could be measured, and no deadline is missed; otherwise the exit code of the first error.
    """
    from normfold.report.document import writable
    from normfold.verbs.bench import bench

    if output is not None:
        refuse_overwriting(output, *models, options["session"], options["inputs"], *options["custom_ops"])
        writable(output)
    given = arguments(options)
    effort = replace(given.pop("effort"), details=not plain)
    done = bench(*models, effort=effort, misses=misses / 100, progress=progress, **given)
    if output is not None:
        done.save(output)
    error = next(iter((*done.refused, *done.missed)), None)
    return CommandResult(
        command="bench",
        result=done.document(),
        report=(*done.report(detail), *(done.nodes() if nodes else ())),
        exit_code=0 if error is None else error.exit_code,
        error=error if error is not None and error.exit_code > 1 else None,
    )
