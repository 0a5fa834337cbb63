"""``normfold export``."""

from __future__ import annotations

from typing import Any

import click

from normfold.cli.command import CommandResult, verb
from normfold.cli.fold_result import fold_result
from normfold.cli.modules import DYNAMIC, WEIGHTS, dynamic_axes, load_module
from normfold.cli.options import INPUTS, NO_VERIFY, ONLY, SEED, SHAPES, SKIP, external_data, refuse_overwriting
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
    "--output-name",
    "output_names",
    multiple=True,
    metavar="NAME",
    help="Name of an output; repeat it for all of them in order, or leave it out.",
)
@click.option(
    "--opset", type=click.IntRange(min=1), metavar="N", help="Opset of the ONNX model; by default the exporter's."
)
@click.option("--fold/--no-fold", default=True, show_default=True, help="Fold the norms.")
@ONLY
@SKIP
@SEED
@external_data("from 1.8 GB on")
@NO_VERIFY
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
    """Export a PyTorch module to ONNX, fold its norms and verify it.

    FACTORY is called and returns the module, or is the module itself. Its arguments
    may follow, as in pkg.module:make:depth=18,bias=false.
    """
    refuse_overwriting(output, weights, inputs)
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
