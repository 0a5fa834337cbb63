"""``normfold ort``."""

from __future__ import annotations

from typing import Any

import click

from normfold.cli.command import CommandResult, verb
from normfold.cli.options import CUSTOM_OPS, INPUTS, RTOL, SEED, SHAPES, refuse_overwriting, sizes_by_name
from normfold.cli.param_types import ShapedInput, file_name
from normfold.records import Progress
from normfold.report.blocks import Detail


@click.command("ort")
@click.argument("model", type=file_name)
@click.option(
    "-o", "--output", type=file_name, required=True, metavar="FILE", help="Where to write; the name ends in .ort."
)
@SHAPES
@INPUTS
@RTOL
@SEED
@CUSTOM_OPS
@verb("ort")
def command(
    *,
    model: str,
    output: str,
    shapes: tuple[ShapedInput, ...],
    progress: Progress,
    detail: Detail,
    **options: Any,
) -> CommandResult:
    """Write MODEL in ONNX Runtime's own format, for a reduced build.

    The list of operators that such a build needs goes beside it, with .config in place of .ort.
    """
    from normfold.report.document import writable
    from normfold.verbs.ort import ort

    refuse_overwriting(output, model, options["inputs"], *options["custom_ops"])
    writable(output)
    done = ort(model, output=output, shapes=sizes_by_name(shapes), progress=progress, **options)
    return CommandResult("ort", done.document(), done.report(detail))
