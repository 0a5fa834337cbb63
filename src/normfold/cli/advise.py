"""``normfold advise``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import click

from normfold.cli.command import CommandResult, verb
from normfold.cli.modules import WEIGHTS, is_reference, load_module
from normfold.cli.options import CUSTOM_OPS, EP, INPUTS, SEED, SHAPES, USE, sizes_by_name
from normfold.cli.param_types import ShapedInput, file_name
from normfold.records import Progress
from normfold.report.blocks import Detail


@click.command("advise")
@click.argument("model", type=file_name)
@SHAPES
@INPUTS
@WEIGHTS
@click.option("--batch", type=click.IntRange(min=1), metavar="N", help="Batch size.")
@click.option(
    "--threads", type=click.IntRange(min=1), default=1, show_default=True, metavar="N", help="Threads of an operation."
)
@USE
@SEED
@CUSTOM_OPS
@EP
@verb("advise")
def command(
    *,
    model: str,
    shapes: tuple[ShapedInput, ...],
    inputs: str | None,
    weights: str | None,
    progress: Progress,
    detail: Detail,
    **options: Any,
) -> CommandResult:
    """Say what the norms of MODEL cost at run time, what they could become, how exactly, and what to choose.

    MODEL is an ONNX file, or a PyTorch module named package.module:factory, which needs --shape or --inputs.
    """
    from normfold.verbs import advise as advising

    if is_reference(model):
        loaded = load_module(model, shapes, inputs, weights, options["seed"])
        done = advising.advise(loaded.module, loaded.example, progress=progress, **options)
    else:
        sizes = sizes_by_name(shapes, weights=weights)
        done = advising.advise(model, shapes=sizes, inputs=inputs, progress=progress, **options)
    done = replace(done, source=model)
    return CommandResult("advise", done.document(), done.report(detail))
