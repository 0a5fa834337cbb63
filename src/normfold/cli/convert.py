"""``normfold convert``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from normfold.cli.command import CommandResult, verb
from normfold.cli.fold_result import fold_result
from normfold.cli.modules import WEIGHTS, is_reference, load_module
from normfold.cli.options import (
    CUSTOM_OPS,
    DRY_RUN,
    EP,
    IN_PLACE,
    INPUTS,
    NO_VERIFY,
    ONLY,
    SEED,
    SHAPES,
    SKIP,
    external_data,
    output_path,
    refuse_overwriting,
    sizes_by_name,
)
from normfold.cli.param_types import ShapedInput, duration, file_name
from normfold.errors import UsageError
from normfold.records import Progress
from normfold.report.blocks import Detail

if TYPE_CHECKING:
    from normfold.verbs.fold_result import FoldResult

TARGETS: Final = ("batch", "frozen", "static", "layer", "rms", "group", "instance", "weight", "bln", "dyt", "tanh")
KINDS: Final = (
    *("batch", "frozen", "layer", "rms", "group", "instance", "running-instance", "weight"),
    *("static-bln", "live-bln", "dyt"),
)
"""Those of `normfold.passes.convert`, which is not imported to parse a command line."""


@click.command("convert")
@click.argument("model", type=file_name)
@click.option(
    "--to",
    required=True,
    metavar="KIND",
    help=f"What the norms are to become: {', '.join(TARGETS)}; group:count=N or group:size=N says which groups.",
)
@click.option("--from", "source", type=click.Choice(KINDS), help="Convert norms of this kind only.")
@click.option(
    "--needs-training",
    is_flag=True,
    help="Convert norms, too, where the result computes something else and is only a start for training.",
)
@click.option(
    "--calibrate",
    metavar="DATA",
    help="Unlabelled inputs to fit to what is not converted exactly: an .npz or .npy file, a folder of pictures, or "
    "package.module:function.",
)
@click.option(
    "--max-offset",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    metavar="B",
    help="Largest constant added to a standardised channel before a norm with live statistics; 0 to train the result.",
)
@click.option(
    "--distill",
    type=duration,
    is_flag=False,
    flag_value="60s",
    metavar="TIME",
    help="Train the result against MODEL on the calibration inputs, by default for 60s; PyTorch modules only.",
)
@click.option(
    "--reestimate",
    is_flag=True,
    help="With --to batch: give BatchNorms the mean and variance that the calibration inputs have.",
)
@click.option("--evaluate", metavar="DATA", help="Labelled inputs to judge the result on, named as for --calibrate.")
@click.option(
    "--metric",
    default="top1",
    show_default=True,
    metavar="NAME",
    help="top1, top5, mse, cosine or module:function.",
)
@click.option(
    "--max-drop",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    metavar="D",
    help="How much worse the metric may get: points of 100 for top1. The norms fitted worst stay where it gets worse.",
)
@click.option(
    "--opset",
    type=click.IntRange(min=7),
    metavar="N",
    help="Write norms in operators that this opset has, for runtimes that lack newer ones.",
)
@EP
@click.option("-o", "--output", type=file_name, metavar="FILE", help="Where to write the converted model.")
@SHAPES
@INPUTS
@WEIGHTS
@ONLY
@SKIP
@DRY_RUN
@SEED
@CUSTOM_OPS
@external_data("where the source does")
@NO_VERIFY
@IN_PLACE
@verb("convert")
def command(
    *,
    model: str,
    output: str | None,
    shapes: tuple[ShapedInput, ...],
    weights: str | None,
    dry_run: bool,
    progress: Progress,
    detail: Detail,
    **options: Any,
) -> CommandResult:
    """Convert the norms of MODEL to another kind, verify the result and write it.

    MODEL is an ONNX file, or a PyTorch module named package.module:factory, whose state becomes a .safetensors file.
    """
    target = output_path(model, output, in_place=options["in_place"], dry_run=dry_run)
    written = None if dry_run else target
    refuse_overwriting(written, weights, options["inputs"], *options["custom_ops"])
    options["distill"] = options["distill"] or 0.0
    options |= {"output": target, "dry_run": dry_run, "progress": progress, "verify": not options.pop("unverified")}

    def file() -> FoldResult[Any]:
        from normfold.verbs import convert as converting

        return converting.convert(model, shapes=sizes_by_name(shapes, weights=weights), **options)

    def module() -> FoldResult[Any]:
        from normfold.verbs import convert as converting

        loaded = load_module(model, shapes, options.pop("inputs"), weights, options["seed"])
        if options.pop("opset"):
            raise UsageError("usage", "--opset is for ONNX models.")
        for name in ("custom_ops", "external_data", "in_place"):
            options.pop(name)
        return converting.convert(loaded.module, loaded.example, **options)

    return fold_result("convert", model, written, module if is_reference(model) else file, detail)
