"""``normfold verify``."""

from __future__ import annotations

import click

from normfold.cli.answer import Answer
from normfold.cli.options import CUSTOM_OPS, INPUTS, SEED, SHAPES, file_name, verb
from normfold.errors import EnvironmentUnavailableError
from normfold.records import Progress


@click.command("verify")
@click.argument("a", type=file_name)
@click.argument("b", type=file_name)
@SHAPES
@INPUTS
@click.option("--rtol", type=click.FloatRange(min=0, min_open=True), help="Largest deviation, of the output's range.")
@SEED
@CUSTOM_OPS
@verb("verify")
def command(
    *,
    a: str,
    b: str,
    shapes: tuple[tuple[str, tuple[int, ...]], ...],
    inputs: str | None,
    rtol: float | None,
    seed: int,
    custom_ops: tuple[str, ...],
    progress: Progress,
    detail: int,
) -> Answer:
    """Compare models A and B on random and adversarial inputs; exit 0 where they are equivalent, 1 where not."""
    from normfold.report import document, text
    from normfold.verbs import fold as api

    proof = api.verify(
        a, b, shapes=dict(shapes), inputs=inputs, rtol=rtol, seed=seed, custom_ops=custom_ops, progress=progress
    )
    unavailable = proof.status == "unavailable"
    return Answer(
        command="verify",
        result={"source": a, "other": b, "verification": document.verification_record(proof)},
        show=lambda console: text.show_verification(console, f"{a} <> {b}", proof, detail=detail),
        exit_code={"equivalent": 0, "unavailable": 3}.get(proof.status, 1),
        error=EnvironmentUnavailableError("unverified", f"The models cannot be run here: {proof.because}")
        if unavailable
        else None,
    )
