"""``normfold fold``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from normfold.cli.command import CommandResult, verb
from normfold.cli.fold_result import fold_result
from normfold.cli.modules import (
    DYNAMIC,
    WEIGHTS,
    LoadedModule,
    dynamic_axes,
    is_reference,
    load_module,
)
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
from normfold.cli.param_types import ShapedInput, file_name
from normfold.errors import UsageError
from normfold.records import Progress
from normfold.report.blocks import Detail

if TYPE_CHECKING:
    from normfold.verbs.fold_result import FoldResult

MODULE_FILES: Final = (".safetensors", ".pt2", ".onnx")
ONNX_ONLY: Final = {
    "in_place": "--in-place",
    "preprocess": "--preprocess",
    "custom_ops": "--custom-ops",
    "allow_inserted": "--allow-inserted",
    "uncleaned": "--no-clean",
    "allow_contrib": "--allow-contrib",
}
"""Options for ONNX models only."""


@click.command("fold")
@click.argument("model", type=file_name)
@click.option("-o", "--output", type=file_name, metavar="FILE", help="Where to write the folded model.")
@SHAPES
@INPUTS
@DYNAMIC
@WEIGHTS
@ONLY
@SKIP
@DRY_RUN
@SEED
@CUSTOM_OPS
@external_data("where the source does")
@NO_VERIFY
@IN_PLACE
@click.option(
    "--preprocess",
    multiple=True,
    metavar="KEY=VALUE",
    help="Make the result take the raw image x, from which MODEL expects (scale*x - mean)/std: mean=0.485:0.456:0.406, "
    "std=..., scale=1/255, layout=NHWC, channels=BGR, dtype=uint8, input=NAME; repeatable.",
)
@click.option(
    "--allow-inserted",
    is_flag=True,
    help="Insert operations for a fold even where the cost table says that it does not pay.",
)
@click.option(
    "--allow-contrib",
    is_flag=True,
    help="Fuse written-out attention into ONNX Runtime's own operator for it; the result runs nowhere else.",
)
@click.option("--no-clean", "uncleaned", is_flag=True, help="Leave dead nodes, copies and duplicates in.")
@EP
@verb("fold")
def command(
    *,
    model: str,
    output: str | None,
    shapes: tuple[ShapedInput, ...],
    dynamic: tuple[tuple[str, int, str], ...],
    weights: str | None,
    dry_run: bool,
    progress: Progress,
    detail: Detail,
    **options: Any,
) -> CommandResult:
    """Fold the norms of MODEL, verify the result and write it.

    MODEL is an ONNX file, or a PyTorch module named package.module:factory, which becomes a .safetensors, .pt2 or
    .onnx file.
    """
    target = output_path(model, output, in_place=options["in_place"], dry_run=dry_run)
    written = None if dry_run else target
    refuse_overwriting(written, weights, options["inputs"], *options["custom_ops"])
    if is_reference(model):
        job = _ModuleJob(model, written, shapes, dynamic, weights, progress, options)
        return fold_result("fold", model, written, job.run, detail)
    known = sizes_by_name(shapes, weights=weights, dynamic=dynamic)
    options |= {"output": target, "shapes": known, "dry_run": dry_run, "progress": progress}
    return fold_result("fold", model, written, lambda: _fold_file(model, options), detail)


def _fold_file(model: str, options: dict[str, Any]) -> FoldResult[Any]:
    from normfold.runtime import CHECKER

    # Its imports overlap with ours.
    CHECKER.start()
    from normfold.core.preprocess import Preprocess
    from normfold.verbs import fold as folding

    preprocess = Preprocess.parse(options.pop("preprocess"))
    options |= {"verify": not options.pop("unverified"), "clean": not options.pop("uncleaned")}
    return folding.fold(model, preprocess=preprocess, **options)


@dataclass(frozen=True, slots=True)
class _ModuleJob:
    """Folding the module that ``model`` names; ``target`` is None under --dry-run."""

    model: str
    target: str | None
    shapes: tuple[ShapedInput, ...]
    dynamic: tuple[tuple[str, int, str], ...]
    weights: str | None
    progress: Progress
    options: dict[str, Any]

    def run(self) -> FoldResult[Any]:
        """Load, fold, write."""
        self._check()
        self.progress("loading")
        called = load_module(self.model, self.shapes, self.options["inputs"], self.weights, self.options["seed"])
        choice: dict[str, Any] = {key: self.options[key] for key in ("only", "skip", "seed")}
        choice |= {"verify": not self.options["unverified"], "progress": self.progress}
        suffix = Path(self.target or "").suffix
        if suffix == ".onnx":
            return self._exported(called, choice)
        if suffix == ".pt2":
            return self._program(called, choice)
        from normfold.verbs import fold as folding

        return folding.fold(called.module, called.example, output=self.target, dry_run=self.target is None, **choice)

    def _check(self) -> None:
        given = next((option for key, option in ONNX_ONLY.items() if self.options[key]), None)
        if given is not None:
            raise UsageError("usage", f"{given} is for ONNX models.")
        if self.target is not None and Path(self.target).suffix not in MODULE_FILES:
            raise UsageError("usage", f"{self.target} does not end in {', '.join(MODULE_FILES)}.")

    def _exported(self, called: LoadedModule, choice: dict[str, Any]) -> FoldResult[Any]:
        from normfold.verbs import export as exporting

        return exporting.export(
            called.module,
            called.example,
            output=self.target,
            dynamic=dynamic_axes(self.dynamic),
            input_names=called.names,
            external_data=self.options["external_data"],
            **choice,
        )

    def _program(self, called: LoadedModule, choice: dict[str, Any]) -> FoldResult[Any]:
        from normfold.verbs import fold_program

        return fold_program.fold_program(
            called.module, called.example, output=self.target, dynamic=dynamic_axes(self.dynamic), **choice
        )
