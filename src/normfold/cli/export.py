"""``normfold export``."""

from __future__ import annotations

from typing import Any

import click

from normfold.cli.command import CommandResult, verb
from normfold.cli.fold_result import fold_result
from normfold.cli.modules import DYNAMIC, WEIGHTS, dynamic_axes, load_module, refuse_overwriting
from normfold.cli.options import INPUTS, SEED, SHAPES
from normfold.cli.param_types import ShapedInput, file_name
from normfold.records import Progress
from normfold.report.blocks import Detail


@click.command("export")
@click.argument("model", metavar="PACKAGE.MODULE:FACTORY")
@click.option("-o", "--output", type=file_name, required=True, metavar="FILE", help="Where to write the ONNX model.")
@SHAPES
@INPUTS
@DYNAMIC
@WEIGHTS
@click.option(
    "--output-name", "output_names", multiple=True, metavar="NAME", help="Of an output: all in order, or none."
)
@click.option("--opset", type=click.IntRange(min=1), metavar="N", help="Of the result; by default the exporter's.")
@click.option("--fold/--no-fold", default=True, show_default=True, help="Fold the norms.")
@click.option("--only", multiple=True, metavar="GLOB", help="Fold norms whose site matches; repeatable.")
@click.option("--skip", multiple=True, metavar="GLOB", help="Keep norms whose site matches; repeatable.")
@SEED
@click.option(
    "--external-data",
    type=click.Choice(["auto", "always", "never"]),
    default="auto",
    show_default=True,
    help="Keep weights in a file of their own; 'auto' does so from 1.8 GB on.",
)
@click.option("--no-verify", "unverified", is_flag=True, help="Write the result without comparing it with the module.")
@verb("export")
def command(
    *,
    model: str,
    output: str,
    shapes: tuple[ShapedInput, ...],
    inputs: str | None,
    dynamic: tuple[tuple[str, int, str], ...],
    weights: str | None,
    output_names: tuple[str, ...],
    seed: int,
    unverified: bool,
    progress: Progress,
    detail: Detail,
    **options: Any,
) -> CommandResult:
    """Export the PyTorch module that FACTORY makes to ONNX, fold its norms, and compare the result with the module."""
    refuse_overwriting(output, weights)
    progress("loading")
    called = load_module(model, shapes, inputs, weights, seed)

    def job() -> Any:
        from normfold.verbs import export as exporting

        return exporting.export(
            called.module,
            called.example,
            output=output,
            dynamic=dynamic_axes(dynamic),
            input_names=called.names,
            output_names=output_names or None,
            seed=seed,
            verify=not unverified,
            progress=progress,
            **options,
        )

    return fold_result("export", model, output, job, detail)
