"""``normfold verify``."""

from __future__ import annotations

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
    inputs: str | None,
    rtol: float | None,
    seed: int,
    custom_ops: tuple[str, ...],
    progress: Progress,
    detail: Detail,
) -> CommandResult:
    """Compare models A and B on random and adversarial inputs; exit 0 where they are equivalent, 1 where not."""
    from normfold.verbs import verify as verifying

    done = verifying.verify(
        a,
        b,
        shapes=sizes_by_name(shapes),
        inputs=inputs,
        rtol=rtol,
        seed=seed,
        custom_ops=custom_ops,
        progress=progress,
    )
    proof = done.verification
    unavailable = proof.status == "unavailable"
    return CommandResult(
        command="verify",
        result=done.document(),
        report=done.report(detail),
        exit_code={"equivalent": 0, "unavailable": 3}.get(proof.status, 1),
        error=EnvironmentUnavailableError("unverified", f"The models cannot be run here: {proof.because}")
        if unavailable
        else None,
    )
