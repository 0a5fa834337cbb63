"""What the benchmarks share: timing in turns, ratios within rounds, bare sessions, tables, and the JSON file."""

from __future__ import annotations

import json
import math
import os
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

# Importing the room of ONNX Runtime switches its telemetry off, here and in the processes started from here.
from normfold.measure import statistics
from normfold.runtime.providers import PROVIDERS
from normfold.runtime.sessions import session_options

Job = Callable[[], object]
Clock = Callable[[], float]

PLAIN: Final = "ORT_DISABLE_ALL"
"""The level of optimisation at which ONNX Runtime computes what the file says."""


def seconds_of(job: Job, runs: int = 1, clock: Clock = time.perf_counter) -> float:
    """Mean seconds of a run of ``job``."""
    started = clock()
    for _run in range(runs):
        job()
    return (clock() - started) / runs


def in_turns(
    jobs: Mapping[str, Job],
    rounds: int,
    *,
    warm_up: int = 1,
    runs: Mapping[str, int] | None = None,
    clock: Clock = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of a run of each job in each of ``rounds``, after ``warm_up`` rounds that are not counted.

    With ``runs``, a turn is that many runs of a job, after one that is not counted since another ran before it, and
    every round has an order of its own.
    """
    times: dict[str, list[float]] = {name: [] for name in jobs}
    order, generator = list(jobs), random.Random(7)  # noqa: S311 - an order of turns
    for number in range(warm_up + rounds):
        if runs is not None:
            generator.shuffle(order)
        for name in order:
            if runs is not None:
                jobs[name]()
            taken = seconds_of(jobs[name], 1 if runs is None else runs[name], clock)
            if number >= warm_up:
                times[name].append(taken)
    return times


def median_ratio(own: Sequence[float], reference: Sequence[float]) -> float:
    """Median over rounds of the ratio of two times of the same round: machines drift, within a round they hardly do."""
    return math.exp(statistics.log_ratio(np.asarray(reference), np.asarray(own)))


def session(
    model: Path | bytes,
    *,
    ep: str = "cpu",
    threads: int | None = 1,
    level: str = "ORT_ENABLE_ALL",
    options: Mapping[str, object] | None = None,
    config: Mapping[str, str] | None = None,
) -> Any:
    """An ``onnxruntime.InferenceSession`` in this process, without warnings; `PLAIN` computes node by node."""
    import onnxruntime

    attributes = {"graph_optimization_level": level, "log_severity_level": 3, **(options or {})}
    settings = {"intra_threads": threads, "inter_threads": 1, "options": attributes, "config": config or {}}
    source = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(source, session_options(settings), providers=[PROVIDERS[ep]])


def one_thread() -> dict[str, str]:
    """Environment of a process with one thread and no colours: the same conditions for every tool."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}


def show_table(title: str, heads: Sequence[str], rows: Iterable[Sequence[str]], left: Sequence[str] = ()) -> None:
    """Print a table; its columns are aligned to the right but for the first one and those named in ``left``."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, header_style="bold")
    for number, head in enumerate(heads):
        table.add_column(head, justify="left" if number == 0 or head in left else "right")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def write_json(path: Path | None, document: Mapping[str, Any]) -> None:
    """Write ``document`` in one step, where there is a path at all."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    part.replace(path)
