"""``normfold optimize``."""

from __future__ import annotations

from typing import Any, Final

import click

from normfold.cli.command import CommandResult, verb
from normfold.cli.modules import DYNAMIC, WEIGHTS, dynamic_axes, is_reference, load_module
from normfold.cli.options import (
    CUSTOM_OPS,
    EP,
    INPUTS,
    ONLY,
    SEED,
    SHAPES,
    SKIP,
    TARGET,
    USE,
    external_data,
    sizes_by_name,
)
from normfold.cli.param_types import ShapedInput, file_name
from normfold.records import Progress
from normfold.report.blocks import Detail

WIDTHS: Final = ("int8", "int4", "fp16", "bf16")
OPTIONAL: Final = ("convert", "quantize", "tune")
"""Those of `normfold.verbs.optimize.request.OPTIONAL`, which is not imported to parse a command line."""


@click.command("optimize")
@click.argument("model", type=file_name)
@click.option("-o", "--output", type=file_name, metavar="DIR", help="Folder for the model, the reports and the stages.")
@click.option("--calibrate", metavar="DATA", help="Data to choose scales on: an .npz file, a folder, pkg.module:name.")
@click.option("--evaluate", metavar="DATA", help="Data to measure the accuracy on; nothing is quantised without.")
@click.option(
    "--metric", metavar="NAME", help="top1 (the default), f1, recall:3, ece, mse, cosine... or package.module:function."
)
@click.option(
    "--max-drop",
    type=float,
    metavar="X",
    help="Largest loss of the metric, in its own unit; by default 0.2 points of top1 and top5, 0.01 of cosine.",
)
@click.option(
    "--shift",
    type=click.Choice(["noise", "blur", "contrast"]),
    multiple=True,
    help="Measure the accuracy on shifted evaluation data, too; repeatable.",
)
@click.option("--max-latency", metavar="LIMIT", help="Largest time of a run: 3ms, or 0.5x of the source's.")
@click.option("--width", type=click.Choice(WIDTHS), help="What to quantise to; by default int8 on a CPU, else fp16.")
@EP
@TARGET
@USE
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Threads of an operation; one for each core.")
@click.option("--batch", type=click.IntRange(min=1), metavar="N", help="Batch size while timing.")
@SHAPES
@INPUTS
@DYNAMIC
@WEIGHTS
@ONLY
@SKIP
@SEED
@CUSTOM_OPS
@external_data("where the source does")
@click.option(
    "--without", type=click.Choice(OPTIONAL), multiple=True, metavar="STAGE", help="Leave a stage out; repeatable."
)
@click.option("--dry-run", is_flag=True, help="Print the plan; run nothing, write nothing.")
@click.option("--force", is_flag=True, help="Write the result also where it misses --max-latency.")
@click.option("--markdown", is_flag=True, help="Print Markdown instead of text, for a pull request.")
@verb("optimize", "15m")
def command(
    *,
    model: str,
    shapes: tuple[ShapedInput, ...],
    dynamic: tuple[tuple[str, int, str], ...],
    weights: str | None,
    markdown: bool,
    progress: Progress,
    detail: Detail,
    **options: Any,
) -> CommandResult:
    """Make MODEL as fast as it gets: fold, convert, quantise within the budget, tune, verify, measure, report.

    MODEL is an ONNX file, a PyTorch program (.pt2), or a module named package.module:factory.
    """
    from normfold.verbs.optimize import optimize

    options["progress"] = progress
    if is_reference(model):
        progress("loading")
        called = load_module(model, shapes, options.pop("inputs"), weights, options["seed"])
        done = optimize(
            called.module, called.example, dynamic=dynamic_axes(dynamic), input_names=called.names, **options
        )
    else:
        done = optimize(model, shapes=sizes_by_name(shapes, weights=weights, dynamic=dynamic), **options)
    exit_code = 0 if done.refused is None else 1
    return CommandResult("optimize", done.document(), done.report(detail), exit_code, markdown=markdown)
