"""``normfold quantize``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import click

from normfold.cli.command import CommandResult, verb
from normfold.cli.modules import WEIGHTS, is_reference, load_module
from normfold.cli.options import (
    CUSTOM_OPS,
    EP,
    IN_PLACE,
    INPUTS,
    SEED,
    SHAPES,
    external_data,
    output_path,
    refuse_overwriting,
    sizes_by_name,
)
from normfold.cli.param_types import ShapedInput, file_name
from normfold.records import Progress
from normfold.report.blocks import Detail

WIDTHS: Final = ("int8", "a16w8", "int4", "fp16", "bf16", "auto", "fp32")
"""Those of `normfold.verbs.quantize.WIDTHS`, which is not imported to parse a command line."""


@click.command("quantize")
@click.argument("model", type=file_name)
@click.option("-o", "--output", type=file_name, metavar="FILE", help="Where to write the quantised model.")
@click.option("--calibrate", metavar="DATA", help="Data to choose scales on: an .npz file, a folder, pkg.module:name.")
@click.option("--evaluate", metavar="DATA", help="Data to measure the accuracy on.")
@click.option("--metric", metavar="NAME", help="top1, mse, cosine or package.module:function.")
@click.option(
    "--max-drop",
    type=click.FloatRange(min=0),
    metavar="X",
    help="Largest loss of the metric, in its own unit, by default 0.2 with --evaluate. Operations go back to floating "
    "point until it holds.",
)
@click.option("--max-latency", metavar="LIMIT", help="Largest time of a run: 3ms, or 0.5x of the source's.")
@click.option(
    "--width", type=click.Choice(WIDTHS), default="int8", show_default=True, help="What the model is to compute in."
)
@click.option(
    "--format",
    type=click.Choice(["auto", "qdq", "contrib"]),
    default="auto",
    show_default=True,
    help="Standard operators only, or ONNX Runtime's own too; 'auto' takes the faster on the CPU, else qdq.",
)
@EP
@click.option("--requantize", is_flag=True, help="Quantise a quantised MODEL anew, from what its codes stand for.")
@click.option("--unmeasured", is_flag=True, help="Write for an execution provider that is not here, without figures.")
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Threads of an operation while timing.")
@click.option("--batch", type=click.IntRange(min=1), metavar="N", help="Batch size while timing.")
@SHAPES
@INPUTS
@WEIGHTS
@SEED
@CUSTOM_OPS
@external_data("where the source does")
@IN_PLACE
@click.option(
    "--cache",
    type=file_name,
    metavar="DIR",
    help="Keep what a search for the budget measures in DIR, and go on from what is there.",
)
@click.option("--force", is_flag=True, help="Write the result also where it misses its budget or is not faster.")
@verb("quantize", "10m")
def command(
    *,
    model: str,
    output: str | None,
    shapes: tuple[ShapedInput, ...],
    weights: str | None,
    progress: Progress,
    detail: Detail,
    **options: Any,
) -> CommandResult:
    """Quantise MODEL, prove and measure the result, and write it where it is faster and accurate enough.

    MODEL is an ONNX file, or a PyTorch module named package.module:factory, which is exported first.
    """
    target = output_path(model, output, in_place=options["in_place"], dry_run=None)
    refuse_overwriting(target, weights, options["inputs"], *options["custom_ops"])
    from normfold.verbs import quantize as quantizing

    given: tuple[Any, ...] = (model,)
    if is_reference(model):
        loaded = load_module(model, shapes, options.pop("inputs"), weights, options["seed"])
        given = (loaded.module, loaded.example)
    else:
        options["shapes"] = sizes_by_name(shapes, weights=weights)
    done = replace(quantizing.quantize(*given, output=target, progress=progress, **options), source=model)
    return CommandResult("quantize", done.document(), done.report(detail), 0 if done.refused is None else 1)
