"""``normfold verify``."""

from __future__ import annotations

from typing import Any

import click

from normfold.cli.command import CommandResult, verb
from normfold.cli.options import CUSTOM_OPS, INPUTS, RTOL, SEED, SHAPES, sizes_by_name
from normfold.cli.param_types import ShapedInput, file_name
from normfold.errors import EnvironmentUnavailableError
from normfold.records import Progress
from normfold.report.blocks import Detail


@click.command("verify")
@click.argument("a", type=file_name)
@click.argument("b", type=file_name)
@SHAPES
@INPUTS
@RTOL
@SEED
@CUSTOM_OPS
@verb("verify")
def command(
    *,
    a: str,
    b: str,
    shapes: tuple[ShapedInput, ...],
    progress: Progress,
    detail: Detail,
    **options: Any,
) -> CommandResult:
    """Compare two models on random and adversarial inputs.

    Exit 0 where B is equivalent to A, 1 where it differs, 3 where no evaluator can run them.
    """
    from normfold.verbs import verify as verifying

    done = verifying.verify(a, b, shapes=sizes_by_name(shapes), progress=progress, **options)
    proof, error = done.verification, None
    if proof.status == "unavailable":
        error = EnvironmentUnavailableError("unverified", f"No evaluator can run the models: {proof.because}")
    exit_code = error.exit_code if error else int(proof.status == "different")
    return CommandResult("verify", done.document(), done.report(detail), exit_code, error)
