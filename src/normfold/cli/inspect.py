"""``normfold inspect``."""

from __future__ import annotations

from dataclasses import replace

import click

from normfold.cli.command import CommandResult, verb
from normfold.cli.modules import WEIGHTS, is_reference, load_module
from normfold.cli.options import INPUTS, SHAPES, sizes_by_name
from normfold.cli.param_types import ShapedInput, file_name
from normfold.records import Progress
from normfold.report.blocks import Detail


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
    detail: Detail,
) -> CommandResult:
    """List the norms of MODEL, their health and what 'fold' would do.

    MODEL is an ONNX file, or a PyTorch module named package.module:factory, which needs --shape or --inputs.
    """
    from normfold.verbs import inspect as inspecting

    if is_reference(model):
        loaded = load_module(model, shapes, inputs, weights, 0)
        done = inspecting.inspect(loaded.module, loaded.example, progress=progress)
    else:
        sizes_by_name(shapes, weights=weights)
        done = inspecting.inspect(model, progress=progress)
    done = replace(done, source=model)
    return CommandResult("inspect", done.document(), done.report(detail))
