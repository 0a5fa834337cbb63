"""``normfold tune``."""

from __future__ import annotations

from typing import Any

import click

from normfold.cli.command import CommandResult, verb
from normfold.cli.measuring import model_arguments
from normfold.cli.options import (
    ALLOW_FALLBACK,
    CPUS,
    CUSTOM_OPS,
    EP,
    INPUTS,
    RTOL,
    SEED,
    SHAPES,
    TARGET,
    USE,
    refuse_overwriting,
)
from normfold.cli.param_types import file_name
from normfold.records import Progress
from normfold.report.blocks import Detail

MINUTES = "3m"


@click.command("tune")
@click.argument("model", type=file_name)
@click.option("-o", "--output", type=file_name, metavar="FILE", help="Write the settings as a session profile.")
@TARGET
@EP
@click.option(
    "--threads", type=click.IntRange(min=1), metavar="N", help="Threads of an operation; searched by default."
)
@click.option("--batch", type=click.IntRange(min=1), metavar="N", help="Batch size.")
@USE
@CPUS
@RTOL
@ALLOW_FALLBACK
@SHAPES
@INPUTS
@SEED
@CUSTOM_OPS
@verb("tune", MINUTES)
def command(*, model: str, output: str | None, progress: Progress, detail: Detail, **options: Any) -> CommandResult:
    """Search for session settings that make MODEL faster.

    Where none beats ONNX Runtime's defaults beyond the noise floor, the default settings are written.
    """
    from normfold.report.document import writable
    from normfold.verbs.tune import tune

    if output is not None:
        refuse_overwriting(output, model, options["inputs"], *options["custom_ops"])
        writable(output)
    done = tune(model, progress=progress, **model_arguments(options))
    if output is not None:
        done.save(output)
    return CommandResult(
        command="tune",
        result=done.document() | {"output": output},
        report=(*done.report(detail), *(() if detail == Detail.SUMMARY else done.loading(model, output))),
    )
