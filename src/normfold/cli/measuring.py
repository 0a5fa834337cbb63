"""Options that the verbs share that time models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import click

from normfold.cli.options import file_name


def numbers(text: str) -> tuple[int, ...]:
    """``1,8`` to ``(1, 8)``: whole numbers from 0, none twice."""
    words = text.split(",")
    if not all(word.isascii() and word.isdigit() for word in words):
        raise click.BadParameter(f"{text!r} is not of the form 1,8.")
    return tuple(dict.fromkeys(map(int, words)))


def counts(text: str) -> tuple[int, ...]:
    """The same from 1."""
    found = numbers(text)
    if 0 in found:
        raise click.BadParameter("there is no such thing as 0 of them.")
    return found


PROVIDER = click.option(
    "--ep", "provider", default="cpu", show_default=True, metavar="NAME", help="Execution provider."
)
USE = click.option(
    "--profile",
    "use",
    type=click.Choice(["server", "edge"]),
    default="server",
    show_default=True,
    help="Threads that spin while they wait, or that sleep.",
)
CPUS = click.option("--cpus", type=numbers, default=None, metavar="N,N", help="Processors to keep to.")
RTOL = click.option(
    "--rtol", type=click.FloatRange(min=0, min_open=True), help="Deviation allowed, of the output's range."
)
FALLBACK = click.option(
    "--allow-fallback", is_flag=True, help="Accept nodes on another provider than the one asked for."
)
OPTIONS = (
    PROVIDER,
    click.option("--batch", "batches", type=counts, metavar="N,N", help="Batch sizes, a table each."),
    click.option(
        "--threads", type=counts, default="1", show_default=True, metavar="N,N", help="Threads, a table each."
    ),
    USE,
    click.option(
        "--session-profile", type=file_name, metavar="FILE", help="Settings of the sessions, as `normfold tune` writes."
    ),
    CPUS,
    RTOL,
    FALLBACK,
    click.option(
        "--seconds",
        type=click.FloatRange(min=0, min_open=True),
        default=60.0,
        show_default=True,
        help="After this long no further process is started.",
    ),
    click.option(
        "--processes",
        type=click.IntRange(2, 1000),
        default=5,
        show_default=True,
        help="Fresh processes in any case; their spread says how many more are needed.",
    ),
    click.option(
        "--half-width",
        type=click.FloatRange(min=0, min_open=True, max=50),
        default=0.5,
        show_default=True,
        help="Half-width of the interval aimed at, in percent.",
    ),
    click.option(
        "--time-limit",
        type=click.FloatRange(min=0, min_open=True),
        default=300.0,
        show_default=True,
        help="Seconds after which a process that does not answer is given up.",
    ),
)


def measuring(job: Callable[..., Any]) -> Callable[..., Any]:
    """Add `OPTIONS`, in their order on the help page."""
    for option in reversed(OPTIONS):
        job = option(job)
    return job


def arguments(options: dict[str, Any]) -> dict[str, Any]:
    """Keywords of `normfold.bench` from the values of `OPTIONS` and of the shared ones."""
    from normfold.measure.candidate import Effort

    usual, seconds, processes = Effort(), options.pop("seconds"), options.pop("processes")
    effort = replace(
        usual,
        half_width=options.pop("half_width") / 100,
        first=processes,
        most=max(usual.most, processes),
        seconds=seconds,
        # Half of the time for the first stage.
        per_process=min(usual.per_process, seconds / (2 * processes)),
        time_limit=options.pop("time_limit"),
    )
    given = {"inputs": dict(options.pop("shapes")), "feeds": options.pop("inputs")}
    batches = options.pop("batches") or (None,)
    return {**options, **given, "batches": batches, "cpus": options["cpus"] or (), "effort": effort}
