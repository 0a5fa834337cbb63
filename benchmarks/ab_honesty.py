"""How honest the timing is: two copies of a model, and one with 1 % more work, measured over and over.

Every trial times three networks as `normfold.bench` does: one of 100 equal layers, the same again, and one of 101
such layers, which therefore takes 1 % longer. Counted are the trials in which an interval excludes 1 (*found*), and
those in which the difference is above the noise floor, too (*called*, what a user is told). For the equal ones that
should be 5 % at most.
Beside it, what is usually done: run one model, then the other, in one process, and ask a t-test about the two means.

    python benchmarks/ab_honesty.py --json out/ab_honesty.json --minutes 45

goes on where an earlier run of the same settings left off, and stops after that many minutes or all trials.
Nothing else should run on the machine.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import common
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from normfold.measure import CONTROL, Candidate, Conditions, Effort, Experiment, measure, open_candidate, statistics
from normfold.measure.inputs import ArrayFolder, prepare_inputs
from normfold.measure.processes import PLAIN
from normfold.models.data import UserInputs
from normfold.report.environment import environment
from normfold.runtime.session_profile import SessionProfile
from normfold.runtime.targets.timing_client import TimingClient

LAYERS: Final = 100
WIDTH: Final = 96
BATCH: Final = 8
COUNTED: Final = ("same_found", "same_called", "slower_found", "slower_called")
LIMIT: Final = 10.0
"""Seconds that a trial may take."""


@dataclass(frozen=True)
class Answer:
    """What one method said in one trial: relative differences with their bounds, and whether they are called."""

    same: tuple[float, float, float]
    same_called: bool
    slower: tuple[float, float, float]
    slower_called: bool
    floor: float
    seconds: float
    processes: int


@dataclass(frozen=True)
class Trial:
    """One trial; ``load`` is the machine's load average before it."""

    seed: int
    load: float
    ours: Answer
    naive: Answer


def network(folder: Path, layers: int) -> Path:
    """``layers`` products with the identity, so that all networks compute the same."""
    values = ["x", *(f"h{index}" for index in range(layers - 1)), "y"]
    graph = helper.make_graph(
        [helper.make_node("MatMul", [a, "w"], [b], name=b) for a, b in itertools.pairwise(values)],
        "layers",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [BATCH, WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [BATCH, WIDTH])],
        [numpy_helper.from_array(np.eye(WIDTH, dtype=np.float32), "w")],
    )
    path = folder / f"layers{layers}.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def ours(pair: tuple[Candidate, Candidate], effort: Effort, seed: int) -> Answer:
    """As `normfold.bench` does it."""
    started = time.monotonic()
    a, b = pair
    cell = measure(Experiment((a, replace(a, name="same"), b), Conditions(), effort, seed=seed))
    if cell.refused is not None:
        raise SystemExit(f"no figures: {cell.refused}")
    same, slower = (cell.comparisons[name] for name in ("same", b.name))
    return Answer(
        _relative(same.ratio),
        same.called,
        _relative(slower.ratio),
        slower.called,
        same.floor,
        time.monotonic() - started,
        len(cell.samples),
    )


def naive(pair: tuple[Candidate, Candidate], runs: int, seed: int) -> Answer:
    """One after the other in one process; mean, and Welch's t-test over single runs."""
    started = time.monotonic()
    names = {"a": pair[0], CONTROL: pair[0], "b": pair[1]}
    experiment = Experiment(pair, Conditions(), Effort())
    with ArrayFolder() as folder, TimingClient(time_limit=60) as client:
        client.hello((), 0, preload=False)
        client.open("plain", pair[0].model, experiment.session(PLAIN))
        inputs = prepare_inputs(client, "plain", pair[0].inputs, UserInputs(), seed, folder)
        times = {}
        for name, one in names.items():
            client.open(name, one.model, experiment.session(SessionProfile()))
            client.bind(name, inputs.entries)
            client.time([(name, runs // 10)])
            times[name] = np.array(client.time([(name, runs)])["ns"][0], dtype=float)
    base = float(np.mean(times["a"]))
    same, slower = (_over(statistics.welch_interval(times["a"], times[name]), base) for name in (CONTROL, "b"))
    return Answer(same, _excludes_zero(same), slower, _excludes_zero(slower), 0.0, time.monotonic() - started, 1)


def _excludes_zero(difference: tuple[float, float, float]) -> bool:
    return not difference[1] <= 0 <= difference[2]


def _relative(ratio: statistics.Interval) -> tuple[float, float, float]:
    return ratio.value - 1, ratio.low - 1, ratio.high - 1


def _over(difference: statistics.Interval, base: float) -> tuple[float, float, float]:
    return difference.value / base, difference.low / base, difference.high / base


def row(name: str, answers: Sequence[Answer]) -> dict[str, Any]:
    """One line of the table."""
    count = len(answers)
    wrong = sum(answer.slower[2] < 0 for answer in answers)
    widths = sorted((high - low) / 2 for _, low, high in (answer.slower for answer in answers))
    seconds = sorted(answer.seconds for answer in answers)
    return {
        "method": name,
        "trials": count,
        "same_found": sum(_excludes_zero(answer.same) for answer in answers),
        "same_called": sum(answer.same_called for answer in answers),
        "slower_found": sum(answer.slower[1] > 0 for answer in answers),
        "slower_called": sum(answer.slower_called and answer.slower[0] > 0 for answer in answers),
        "wrong_sign": wrong,
        "half_width_median": widths[count // 2],
        "half_width_p95": widths[math.ceil(0.95 * count) - 1],
        "within_0.3_percent": sum(width <= 0.003 for width in widths),
        "seconds_median": seconds[count // 2],
        "seconds_max": seconds[-1],
        "over_limit": sum(one > LIMIT for one in seconds),
        "floor_median": sorted(answer.floor for answer in answers)[count // 2],
        "difference_median": float(np.median([answer.slower[0] for answer in answers])),
    }


def show(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """Print the table; its rows."""
    rows = [
        row("normfold", [trial.ours for trial in trials]),
        row("sequential means, t-test", [trial.naive for trial in trials]),
    ]
    print(f"{'':26} {'equal, but':^17} {'1 % more, and':^17} {'wrong':>5} {'half-width':>17} {'<=0.3%':>7}  seconds")
    heads = " ".join(f"{word:>8}" for word in ("found", "called", "found", "called"))
    print(f"{'':26} {heads} {'sign':>5} {'median / p95':>17} {'':>7}  median / max")
    for one in rows:
        count = one["trials"]
        shares = " ".join(f"{one[name] / count:8.1%}" for name in COUNTED)
        widths = f"{one['half_width_median']:8.2%} /{one['half_width_p95']:7.2%}"
        narrow, seconds = one["within_0.3_percent"] / count, f"{one['seconds_median']:6.1f} /{one['seconds_max']:6.1f}"
        print(f"{one['method']:26} {shares} {one['wrong_sign']:>5} {widths:>17} {narrow:>7.0%}  {seconds}")
    loads = sorted(trial.load for trial in trials)
    middle = loads[len(loads) // 2]
    print(f"{len(trials)} trials; load of the machine {loads[0]:.1f} to {loads[-1]:.1f}, median {middle:.1f}")
    return rows


def earlier(path: Path | None, settings: dict[str, Any]) -> list[Trial]:
    """Trials of a run of the same settings."""
    if path is None or not path.exists():
        return []
    document = json.loads(path.read_text())
    if document["settings"] != settings:
        raise SystemExit(f"{path} is of other settings: name another file")
    return [
        Trial(one["seed"], one["load"], *(_answer(one[method]) for method in ("ours", "naive")))
        for one in document["trials"]
    ]


def _answer(record: dict[str, Any]) -> Answer:
    return Answer(**record | {name: tuple(record[name]) for name in ("same", "slower")})


def write(path: Path, settings: dict[str, Any], trials: Sequence[Trial], rows: Sequence[dict[str, Any]]) -> None:
    """Everything, with the environment."""
    document = {
        "settings": settings,
        "environment": environment(),
        "rows": list(rows),
        "trials": [asdict(trial) for trial in trials],
    }
    common.write_json(path, document)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; exits 1 where more than 5 % of the copies are called different (with room for chance)."""
    parser = argparse.ArgumentParser(description="Count how often the timing is wrong about two equal models.")
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=60.0, help="stop after this long (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=5, help="of the first stage (default: %(default)s)")
    parser.add_argument("--per-process", type=float, default=0.7, help="seconds timed in each (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=8.0, help="no process starts later (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="three trials, to see that it works")
    parser.add_argument("--json", type=Path, help="write trials here after each, and go on from what is there")
    options = parser.parse_args(arguments)
    effort = Effort(
        half_width=0.003,
        first=options.processes,
        most=options.processes + 3,
        time_limit=options.seconds,
        per_process=options.per_process,
        warm_up=0.03,
        details=False,
    )
    settings = {"layers": LAYERS, "width": WIDTH, "batch": BATCH, "effort": asdict(effort)}
    trials = earlier(options.json, settings)
    wanted = len(trials) + 3 if options.quick else options.trials
    until = time.monotonic() + 60 * options.minutes
    with tempfile.TemporaryDirectory() as scratch:
        paths = [network(Path(scratch), layers) for layers in (LAYERS, LAYERS + 1)]
        with open_candidate(paths[0]) as a, open_candidate(paths[1]) as b:
            while len(trials) < wanted and time.monotonic() < until:
                seed, load = len(trials), os.getloadavg()[0]
                trials.append(Trial(seed, load, ours((a, b), effort, seed), naive((a, b), 1000, seed)))
                last = trials[-1]
                print(
                    f"{len(trials):4}/{wanted}  copies {last.ours.same[0]:+.2%}  added {last.ours.slower[0]:+.2%} "
                    f"({last.ours.slower[1]:+.2%} to {last.ours.slower[2]:+.2%})  {last.ours.processes} processes "
                    f"{last.ours.seconds:.1f} s",
                    file=sys.stderr,
                    flush=True,
                )
                if options.json:
                    write(options.json, settings, trials, [])
    if not trials:
        raise SystemExit("no trial was made")
    rows = show(trials)
    if options.json:
        write(options.json, settings, trials, rows)
    allowed = 0.05 * len(trials) + 3 * math.sqrt(0.05 * 0.95 * len(trials))
    return int(rows[0]["same_called"] > allowed)


if __name__ == "__main__":
    sys.exit(main())
