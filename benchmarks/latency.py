"""How fast each tool's result runs: ONNX Runtime on the CPU with its default session, one picture at a time.

    python benchmarks/zoo.py
    python benchmarks/latency.py --json out/latency.json
    python benchmarks/latency.py --models mobileone_s0,repvgg_a0 --folder out/zoo --results out/latency

Every tool folds the same file, into RESULTS/MODEL/TOOL.onnx; what lies there already is not made again. Only results
that compute what the source computes compete. A first measurement times all of them and chooses the fastest peer; a
second one, in new processes, times normfold's result against that one, so that the choice does not favour either.
Both are those of `normfold.measure`: fresh processes, blocks in random order, paired ratios (docs/benchmarking.md).

*Default session*: all optimisations, and one thread for each core, which spins while it waits. The sessions of one
process share these threads. With threads of its own, each session would slow the others down, as idle threads spin
on the cores that the session being timed needs; alone in a process, no two results could be paired. What is not as in
a program with one session: threads are not pinned to cores.

A model whose interval lies above 1.02 is flagged, and the exit is 1. The file of figures is written after every model;
models that are in it already, measured the same way, are not measured again.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import common
import peers
import zoo

from normfold.errors import NormfoldError
from normfold.measure import Candidate, Cell, Conditions, Effort, Experiment, Interval, measure, open_candidate
from normfold.report.environment import environment
from normfold.runtime import processors

LIMIT: Final = 1.02
SOURCE: Final = "source"
RTOL: Final = 1e-3
"""Deviation from the source allowed, of an output's range; that of fold_coverage.py. The zoo's weights are random."""


@dataclass(frozen=True, slots=True)
class Row:
    """One model: milliseconds of every candidate in the first measurement, and the comparison of the second."""

    model: str
    milliseconds: dict[str, float] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    """Tools whose result does not compete, with the reason."""
    sha256: dict[str, str | None] = field(default_factory=dict)
    best: str | None = None
    to_best: Interval | None = None
    """Time of normfold's result over that of the best peer's, from the second measurement."""
    to_source: float | None = None
    """The same over the source's, from the first; one process, so there is no interval."""
    best_milliseconds: float | None = None
    """Of the best peer, in the second."""
    load: float | None = None
    """Load average before."""
    seconds: float = 0.0

    @property
    def flagged(self) -> bool:
        """Whether normfold's result is slower beyond doubt."""
        return self.to_best is not None and self.to_best.low > LIMIT


@dataclass(frozen=True, slots=True)
class Stopwatch:
    """How every model is timed."""

    conditions: Conditions
    processes: int
    seconds: float
    """Of timed runs in a process."""

    def choosing(self) -> Effort:
        """One process, just to see which peer is fastest."""
        return Effort(first=1, most=1, per_process=self.seconds, copies=1, details=False, control=False)

    def comparing(self) -> Effort:
        """As many processes as asked for."""
        return Effort(first=self.processes, most=self.processes, per_process=self.seconds, details=False, control=False)

    def cell(self, candidates: Sequence[Candidate], effort: Effort, seed: int) -> Cell:
        """Figures; raises `NormfoldError` where there are none."""
        cell = measure(Experiment(tuple(candidates), self.conditions, effort, seed=seed, rtol=RTOL))
        if cell.refused is not None:
            raise cell.refused
        return cell

    def refusal(self, source: Candidate, other: Candidate) -> str | None:
        """Why ``other`` cannot be timed beside the source, if so."""
        brief = Effort(first=1, most=1, per_process=0.01, warm_up=0.0, copies=1, details=False, control=False)
        try:
            self.cell([source, other], brief, 0)
        except NormfoldError as error:
            return f"{error.code}: {error.message}"
        return None


def results_of(source: Path, folder: Path, limit: float) -> tuple[dict[str, Path], dict[str, str]]:
    """Results by tool, made where they are missing, and the tools without one, with the reason."""
    folder.mkdir(parents=True, exist_ok=True)
    files, left_out = {}, {}
    for tool in peers.TOOLS:
        target = folder / f"{tool}.onnx"
        ended = None if target.is_file() else peers.run(tool, source, target, limit)
        if ended is None or ended.status == "done":
            files[tool] = target
        else:
            left_out[tool] = f"{ended.status} {ended.error}".strip()
    return files, left_out


def row_of(source: Path, folder: Path, limit: float, watch: Stopwatch) -> Row:
    """Time the source and every tool's result."""
    load, started = os.getloadavg()[0], time.perf_counter()
    files, left_out = results_of(source, folder, limit)
    with ExitStack() as opened:
        original = opened.enter_context(open_candidate(source, SOURCE))
        results = {tool: opened.enter_context(open_candidate(path, tool)) for tool, path in files.items()}
        hashes = {name: one.sha256 for name, one in {SOURCE: original, **results}.items()}
        try:
            first = _first(original, results, left_out, watch)
        except NormfoldError as error:
            return Row(source.stem, left_out={**left_out, SOURCE: f"{error.code}: {error.message}"}, sha256=hashes)
        ratios = {name: comparison.ratio.value for name, comparison in first.comparisons.items()}
        milliseconds = {figure.name: round(figure.latency.value / 1e6, 3) for figure in first.figures}
        rivals = [name for name in ratios if name != peers.NORMFOLD]
        if peers.NORMFOLD not in ratios or not rivals:
            return Row(source.stem, milliseconds, left_out, hashes, load=load)
        best = min(rivals, key=ratios.__getitem__)
        second = watch.cell([results[best], results[peers.NORMFOLD]], watch.comparing(), 2)
    return Row(
        source.stem,
        milliseconds,
        left_out,
        hashes,
        best,
        second.comparisons[peers.NORMFOLD].ratio,
        ratios[peers.NORMFOLD],
        round(second.figure(best).latency.value / 1e6, 3),
        load,
        round(time.perf_counter() - started, 1),
    )


def _first(source: Candidate, results: Mapping[str, Candidate], left_out: dict[str, str], watch: Stopwatch) -> Cell:
    """All beside one another; those that cannot be go to ``left_out``."""
    try:
        return watch.cell([source, *results.values()], watch.choosing(), 1)
    except NormfoldError:
        refused = {tool: why for tool, one in results.items() if (why := watch.refusal(source, one)) is not None}
    left_out |= refused
    return watch.cell([source, *(one for tool, one in results.items() if tool not in refused)], watch.choosing(), 1)


def show(row: Row) -> None:
    """Print one line."""
    times = " ".join(f"{row.milliseconds.get(name, math.nan):9.2f}" for name in (SOURCE, *peers.TOOLS))
    ratio = row.to_best
    best = "-" if ratio is None else f"{ratio.value:6.3f} [{ratio.low:.3f}, {ratio.high:.3f}] {row.best}"
    print(f"{row.model:24} {times}  {best}{'  SLOWER' if row.flagged else ''}", flush=True)


def geometric_mean(rows: Sequence[Row]) -> float | None:
    """Of the ratios to the best peer."""
    ratios = [row.to_best.value for row in rows if row.to_best is not None]
    return math.exp(sum(map(math.log, ratios)) / len(ratios)) if ratios else None


class Figures:
    """The file of figures, brought up to date after every model."""

    def __init__(self, path: Path | None, setting: Mapping[str, Any]) -> None:
        self._path = path
        self._setting = json.loads(json.dumps(setting))
        self.rows: dict[str, Row] = {}
        if path is not None and path.is_file():
            self._read(path)

    def _read(self, path: Path) -> None:
        document = json.loads(path.read_text())
        if document.get("setting") != self._setting:
            raise SystemExit(f"{path} was measured in another way or with other versions: name another file.")
        for row in document["rows"]:
            ratio = row["to_best"] and Interval(**row["to_best"])
            self.rows[row["model"]] = Row(**row | {"to_best": ratio})

    def add(self, row: Row) -> None:
        """Keep ``row``, and write the file anew."""
        self.rows[row.model] = row
        if self._path is None:
            return
        rows = list(self.rows.values())
        flagged = [one.model for one in rows if one.flagged]
        document = {"benchmark": "latency", "setting": self._setting, "environment": environment()}
        document |= {"geometric_mean": geometric_mean(rows), "flagged": flagged, "rows": [asdict(one) for one in rows]}
        common.write_json(self._path, document)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; exits 1 where a result is slower than the best peer's beyond doubt."""
    parser = argparse.ArgumentParser(description="Time the results of normfold and its peers.")
    parser.add_argument("--folder", type=Path, default=zoo.FOLDER, help="where the zoo lies (default: %(default)s)")
    parser.add_argument("--models", default="", help="names, separated by commas (default: all of the zoo)")
    results = Path("out/latency")
    parser.add_argument("--results", type=Path, default=results, help="results of the tools (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=4, help="of the second measurement (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=1.5, help="of runs in a process (default: %(default)s)")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds for one tool (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the figures here, and go on from those that are there")
    options = parser.parse_args(arguments)
    wanted = [name for name in options.models.split(",") if name]
    found = {path.stem: path for path in sorted(options.folder.glob("*.onnx"))}
    if missing := [name for name in wanted if name not in found]:
        parser.error(f"not in {options.folder}: {', '.join(missing)}")
    threads = processors.cores(processors.usable())
    watch = Stopwatch(Conditions(batch=None, threads=threads), options.processes, options.seconds)
    figures = Figures(options.json, {"versions": peers.versions(), "threads": threads, **asdict(watch)})
    names = " ".join(f"{name[:9]:>9}" for name in (SOURCE, *peers.TOOLS))
    print(f"{'ms':24} {names}  normfold / best peer")
    for name in wanted or found:
        if name not in figures.rows:
            figures.add(row_of(found[name], options.results / name, options.limit, watch))
        show(figures.rows[name])
    rows = [figures.rows[name] for name in wanted or found]
    mean, flagged = geometric_mean(rows), [row.model for row in rows if row.flagged]
    print(f"geometric mean {'-' if mean is None else f'{mean:.3f}'} over {len(rows)} models, {len(flagged)} slower")
    return 1 if flagged else 0


if __name__ == "__main__":
    sys.exit(main())
