"""Options that several verbs share: one option has one name, one type and one meaning everywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from normfold.cli import param_types as types
from normfold.errors import OutputError, UsageError

_Command = TypeVar("_Command", bound=Callable[..., Any])

RENAMED: Final = {
    "--feeds": "--inputs",
    "--input": "--shape",
    "--minutes": "--time-limit",
    "--profile": "--use",
    "--provider": "--ep",
    "--seconds": "--time-limit",
    "--session-profile": "--session",
}
"""Names that options had once, and those that they have now: who writes one is told of the other."""

SHAPES: Final = click.option(
    "--shape",
    "shapes",
    type=types.shape,
    metavar="NAME=SHAPE[:TYPE[:END]]",
    multiple=True,
    help="Shape of an input, such as x=1x3x224x224. For a PyTorch module also its type, such as ids=1x128:int64, "
    "and the end of the range of random integers, such as ids=1x128:int64:1000 (by default 2). Repeatable.",
)
INPUTS: Final = click.option(
    "--inputs",
    type=types.file_name,
    metavar="FILE",
    help="Inputs to run the model on: an .npz file with one array per input.",
)
SEED: Final = click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    default=0,
    show_default=True,
    metavar="N",
    help="Seed for the random test inputs.",
)
RTOL: Final = click.option(
    "--rtol",
    type=click.FloatRange(min=0, min_open=True),
    metavar="R",
    help="Tolerance: the largest deviation allowed, relative to the output's range; by default the type decides.",
)
CUSTOM_OPS: Final = click.option(
    "--custom-ops",
    type=types.file_name,
    metavar="FILE",
    multiple=True,
    help="Library of custom operators to load before the model is run; repeatable.",
)
EP: Final = click.option(
    "--ep",
    default="cpu",
    show_default=True,
    metavar="NAME",
    help="Execution provider that the model runs on, such as cpu or cuda.",
)
USE: Final = click.option(
    "--use",
    type=click.Choice(["server", "edge"]),
    default="server",
    show_default=True,
    help="Whether idle threads spin (server: lowest latency) or sleep (edge: least energy).",
)
SESSION: Final = click.option(
    "--session", type=types.file_name, metavar="FILE", help="Session settings, as `normfold tune` writes them."
)
THREADS: Final = click.option(
    "--threads",
    type=types.counts,
    default="1",
    show_default=True,
    metavar="N[,N]",
    help="Threads within an operation; figures for each number.",
)
BATCHES: Final = click.option("--batch", type=types.counts, metavar="N[,N]", help="Batch sizes; figures for each.")
CPUS: Final = click.option(
    "--cpus", type=types.indices, metavar="N[,N]", help="Processors to run on; by default all that are available."
)
TARGET: Final = click.option(
    "--target",
    default="local",
    show_default=True,
    metavar="NAME",
    help="Where the models run: one of those that `normfold env` lists, or ssh://user@host.",
)
ALLOW_FALLBACK: Final = click.option(
    "--allow-fallback", is_flag=True, help="Accept nodes that run on another execution provider than --ep."
)

ONLY: Final = click.option(
    "--only", multiple=True, metavar="GLOB", help="Keep norms whose site does not match; repeatable."
)
SKIP: Final = click.option("--skip", multiple=True, metavar="GLOB", help="Keep norms whose site matches; repeatable.")
DRY_RUN: Final = click.option("--dry-run", is_flag=True, help="Print the decisions; run nothing, write nothing.")
IN_PLACE: Final = click.option("--in-place", is_flag=True, help="Overwrite MODEL.")
NO_VERIFY: Final = click.option(
    "--no-verify", "unverified", is_flag=True, help="Write the result without verifying it against the source."
)


def external_data(automatic: str) -> Callable[[_Command], _Command]:
    """``--external-data``, given what ``auto`` does."""
    return click.option(
        "--external-data",
        type=click.Choice(["auto", "always", "never"]),
        default="auto",
        show_default=True,
        help=f"Keep weights in an external data file; 'auto' does so {automatic}.",
    )


def output_path(model: str, output: str | None, *, in_place: bool, dry_run: bool | None) -> str | None:
    """The path that the result of rewriting ``model`` is written to; None only for a dry run.

    ``dry_run`` is None where the command has none.

    Raises:
        UsageError: no output path is given.
    """
    target = output or (model if in_place else None)
    if target is None and not dry_run:
        hint = "Add -o FILE or --in-place." if dry_run is None else "Add -o FILE, --in-place or --dry-run."
        raise UsageError("usage", "No output path given.", hint)
    return target


def refuse_overwriting(target: str | None, *read: str | None) -> None:
    """Raise `OutputError` ``output-is-input`` where ``target`` is one of the files that the command reads."""
    for file in filter(None, read) if target and Path(target).exists() else ():
        if Path(file).exists() and Path(str(target)).samefile(file):
            raise OutputError("output-is-input", f"{target} is an input of this command.", "Choose another name.")


def sizes_by_name(shapes: Iterable[types.ShapedInput], **for_modules: object) -> dict[str, tuple[int, ...]]:
    """Sizes by input name for an ONNX model, which states its types itself.

    Raises:
        UsageError: an option is given that is for PyTorch modules.
    """
    listed = tuple(shapes)
    given = [f"--{name}" for name, value in for_modules.items() if value]
    given += [f"the type in --shape {one.name}" for one in listed if one.typed]
    if given:
        raise UsageError("usage", f"{given[0]} is for PyTorch modules, named package.module:factory.")
    return {one.name: one.shape for one in listed}
