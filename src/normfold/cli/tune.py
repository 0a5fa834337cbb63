"""``normfold tune``."""

from __future__ import annotations

from typing import Any

import click

from normfold.cli.answer import Answer
from normfold.cli.measuring import CPUS, FALLBACK, PROVIDER, RTOL, USE
from normfold.cli.options import CUSTOM_OPS, INPUTS, SEED, SHAPES, file_name, verb
from normfold.records import Progress


@click.command("tune")
@click.argument("model", type=file_name)
@click.option("-o", "--output", type=file_name, metavar="FILE", help="Write the settings as a session profile.")
@PROVIDER
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Threads; searched where this is left out.")
@click.option("--batch", type=click.IntRange(min=1), metavar="N", help="Batch size.")
@USE
@click.option(
    "--minutes",
    type=click.FloatRange(min=0, min_open=True),
    default=3.0,
    show_default=True,
    help="About how long to search.",
)
@CPUS
@RTOL
@FALLBACK
@SHAPES
@INPUTS
@SEED
@CUSTOM_OPS
@verb("tune")
def command(*, model: str, output: str | None, progress: Progress, detail: int, **options: Any) -> Answer:
    """Look for session settings with which MODEL runs faster than with ONNX Runtime's default ones.

    The default settings are written where nothing beats them beyond the noise.
    """
    from normfold.cli import tune_text as text
    from normfold.verbs import bench as latency
    from normfold.verbs import tune as tuning

    if output is not None:
        latency.check_target(output)
    given = {"inputs": dict(options.pop("shapes")), "feeds": options.pop("inputs")}
    cpus = options.pop("cpus") or ()
    done = tuning.tune(model, cpus=cpus, **given, progress=progress, **options)
    if output is not None:
        done.save(output)
    return Answer(
        command="tune",
        result=done.document() | {"output": output},
        show=lambda console: text.show_tuning(console, done, model, output, detail=detail),
    )
