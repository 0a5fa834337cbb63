"""``normfold inspect``."""

from __future__ import annotations

import click

from normfold.cli.answer import Answer
from normfold.cli.naming import MODULE_SHAPES, WEIGHTS, Wanted, for_onnx, is_reference, loaded
from normfold.cli.options import INPUTS, file_name, verb
from normfold.records import Progress


@click.command("inspect")
@click.argument("model", type=file_name)
@MODULE_SHAPES
@INPUTS
@WEIGHTS
@verb("inspect")
def command(
    *, model: str, shapes: tuple[Wanted, ...], inputs: str | None, weights: str | None, progress: Progress, detail: int
) -> Answer:
    """List the norms of MODEL, the health of their statistics, and what 'fold' would decide.

    MODEL is an ONNX file, or a PyTorch module named package.module:factory, which needs a --shape.
    """
    from normfold.report import document, text

    if is_reference(model):
        called = loaded(model, shapes, inputs, weights, 0)
        from normfold.verbs import fold as api

        norms = api.inspect(called.module, called.example, progress=progress).norms
    else:
        for_onnx(shapes, weights=weights)
        from normfold.verbs import fold as api

        norms = api.inspect(model, progress=progress).norms
    return Answer(
        command="inspect",
        result=document.inspect_record(norms, source=model),
        show=lambda console: text.show_norms(console, model, norms, detail=detail),
    )
