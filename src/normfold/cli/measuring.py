"""Options that the verbs share that time models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import click

from normfold.cli.options import (
    ALLOW_FALLBACK,
    BATCHES,
    CPUS,
    RTOL,
    SESSION,
    TARGET,
    THREADS,
    USE,
    sizes_by_name,
)
from normfold.cli.param_types import duration

OPTIONS = (
    TARGET,
    click.option(
        "--ep",
        default="cpu",
        show_default=True,
        metavar="NAME[,NAME]",
        help="Execution providers that the models run on, such as cpu or cuda; figures on each.",
    ),
    click.option(
        "--precision",
        type=click.Choice(["f32", "bf16", "f16"]),
        help="What an execution provider computes in that lets one choose, such as openvino.",
    ),
    BATCHES,
    THREADS,
    USE,
    SESSION,
    CPUS,
    RTOL,
    ALLOW_FALLBACK,
    click.option(
        "--processes",
        type=click.IntRange(2, 1000),
        default=5,
        show_default=True,
        metavar="N",
        help="Fresh processes to begin with; the spread among them decides how many more are started.",
    ),
    click.option(
        "--half-width",
        type=click.FloatRange(min=0, min_open=True, max=50),
        default=0.5,
        show_default=True,
        metavar="PERCENT",
        help="Half-width of the confidence interval aimed at, in percent.",
    ),
    click.option(
        "--worker-timeout",
        type=duration,
        default="300s",
        show_default=True,
        metavar="DURATION",
        help="Time after which a worker process that does not answer is killed.",
    ),
)


DEADLINE = click.option(
    "--deadline", type=duration, metavar="DURATION", help="Time that a run may take: count those that take longer."
)
MISSES = click.option(
    "--misses",
    type=click.FloatRange(0, 100, max_open=True),
    default=1.0,
    show_default=True,
    metavar="PERCENT",
    help="Share of runs that may miss the deadline; exit 1 where more do.",
)


def measuring(job: Callable[..., Any]) -> Callable[..., Any]:
    """Add `OPTIONS`, in their order on the help page."""
    for option in reversed(OPTIONS):
        job = option(job)
    return job


def arguments(options: dict[str, Any]) -> dict[str, Any]:
    """Keywords of `normfold.bench` from the values of `OPTIONS` and of the shared ones."""
    from normfold.measure.candidate import Effort

    usual, processes = Effort(), options.pop("processes")
    effort = replace(
        usual,
        half_width=options.pop("half_width") / 100,
        first=processes,
        most=max(usual.most, processes),
        worker_timeout=options.pop("worker_timeout"),
    )
    return {**model_arguments(options), "effort": effort}


def model_arguments(options: dict[str, Any]) -> dict[str, Any]:
    """Keywords of every verb that times a model, from the values of the shared options."""
    return {**options, "shapes": sizes_by_name(options["shapes"]), "cpus": options["cpus"] or ()}
