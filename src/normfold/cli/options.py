"""Options and option types that several verbs share."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from normfold.cli.answer import Answer
from normfold.cli.frame import guarded
from normfold.records import Progress, silent


def shape(text: str) -> tuple[str, tuple[int, ...]]:
    """``name=1x3x224x224`` to ``("name", (1, 3, 224, 224))``; ``name=`` is a scalar.

    The name ends at the last ``=``; sizes are whole numbers from 1.
    """
    name, equals, sizes = text.rpartition("=")
    words = sizes.split("x") if sizes else []
    if not equals or not name or not all(word.isascii() and word.isdigit() and int(word) for word in words):
        raise click.BadParameter(f"{text!r} is not of the form name=1x3x224x224.")
    return name, tuple(map(int, words))


def file_name(text: str) -> str:
    """A path; an option in its place (``-o --json``) is a forgotten value, not a file name."""
    if not text or text.startswith("--"):
        raise click.BadParameter(f"expected a file name, got {text!r} (write ./{text} for a file of that name).")
    return text


SHAPES = click.option(
    "--shape",
    "shapes",
    type=shape,
    metavar="NAME=SHAPE",
    multiple=True,
    help="Shape of an input with free sizes, such as x=1x3x224x224; repeatable.",
)
INPUTS = click.option(
    "--inputs", type=file_name, metavar="FILE", help="An .npz file of inputs to run on, one array per input."
)
EP = click.option("--ep", default="cpu", show_default=True, metavar="NAME", help="Execution provider.")
SEED = click.option(
    "--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Seed for the random test inputs."
)
CUSTOM_OPS = click.option(
    "--custom-ops",
    type=file_name,
    metavar="FILE",
    multiple=True,
    help="A library of custom operators, loaded to run the model; repeatable.",
)


def verb(name: str) -> Callable[[Callable[..., Answer]], Callable[..., Answer]]:
    """Add the options every verb has and run it guarded; it is called with ``progress`` and ``detail``.

    ``progress`` reports progress on stderr. ``detail`` is -1 under --quiet, 1 under --verbose, else 0.
    """

    def decorate(job: Callable[..., Answer]) -> Callable[..., Answer]:
        @click.option("--json", is_flag=True, expose_value=False, help="Print one JSON document instead of text.")
        @click.option("-q", "--quiet", is_flag=True, help="Print the summary only, and no progress.")
        @click.option("-v", "--verbose", is_flag=True, help="List every norm, however many there are.")
        @functools.wraps(job)
        def wrapped(*, quiet: bool, verbose: bool, **options: Any) -> Answer:
            def work() -> Answer:
                with _reporting(shown=not quiet and sys.stderr.isatty()) as progress:
                    return job(progress=progress, detail=verbose - quiet, **options)

            return guarded(name, work)

        return wrapped

    return decorate


@contextmanager
def _reporting(*, shown: bool) -> Iterator[Progress]:
    if not shown:
        yield silent
        return
    from rich.console import Console
    from rich.text import Text

    with Console(stderr=True).status("starting") as status:
        yield lambda doing: status.update(Text(doing))
