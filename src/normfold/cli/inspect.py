"""``normfold inspect``."""

from __future__ import annotations

import click

from normfold.cli.command import CommandResult, verb
from normfold.cli.modules import WEIGHTS, is_reference, load_module
from normfold.cli.options import INPUTS, SHAPES, sizes_by_name
from normfold.cli.param_types import ShapedInput, file_name
from normfold.records import Progress


@click.command("inspect")
@click.argument("model", type=file_name)
@SHAPES
@INPUTS
@WEIGHTS
@verb("inspect")
def command(
    *,
    model: str,
    shapes: tuple[ShapedInput, ...],
    inputs: str | None,
    weights: str | None,
    progress: Progress,
    detail: int,
) -> CommandResult:
    """List the norms of MODEL, the health of their statistics, and what 'fold' would decide.

    MODEL is an ONNX file, or a PyTorch module named package.module:factory, which needs --shape or --inputs.
    """
    from normfold.report import document, text

    if is_reference(model):
        called = load_module(model, shapes, inputs, weights, 0)
        from normfold.verbs import fold as api

        norms = api.inspect(called.module, called.example, progress=progress).norms
    else:
        sizes_by_name(shapes, weights=weights)
        from normfold.verbs import fold as api

        norms = api.inspect(model, progress=progress).norms
    return CommandResult(
        command="inspect",
        result=document.inspect_record(norms, source=model),
        show=lambda console: text.show_norms(console, model, norms, detail=detail),
    )
