"""How fast each tool's result runs: ONNX Runtime on the CPU with its default session, one picture at a time.

    python benchmarks/zoo.py
    python benchmarks/latency.py --json out/latency.json
    python benchmarks/latency.py --models mobileone_s0,repvgg_a0 --folder out/zoo --blocks 60

Every tool folds the same file; only results that compute what the source computes compete. A first run times all of
them and chooses the fastest peer; a second run times normfold's result against that one alone, so that the choice does
not favour either. Within a run, the contenders take turns in random order, block by block, and every block is paired
with the other contender's block of the same turn: the ratio is the median of the paired log-ratios of block medians,
its interval a 95 % bootstrap over turns. Two threads, no spinning: a spinning thread would steal time from whoever
comes next.

A model whose interval lies above 1.02 is flagged, and the exit is 1.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import peers
import zoo
from fold_coverage import Bench
from norm_count import census_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

THREADS: Final = 2
BLOCK_SECONDS: Final = 0.1
LIMIT: Final = 1.02
RESAMPLES: Final = 10_000
SEED: Final = 11
SOURCE: Final = "source"
FREE_DIMENSION: Final = 1


@dataclass(frozen=True, slots=True)
class Ratio:
    """Time of one contender over another's: the median of the paired ratios and a 95 % interval."""

    ratio: float
    low: float
    high: float

    @property
    def cell(self) -> str:
        """The ratio as a table cell."""
        return f"{self.ratio:6.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True, slots=True)
class Row:
    """One model: milliseconds of every contender in the first run, and the comparison of the second."""

    model: str
    milliseconds: dict[str, float] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    """Tools whose result does not compete, with the reason."""
    best: str | None = None
    to_best: Ratio | None = None
    to_source: Ratio | None = None

    @property
    def flagged(self) -> bool:
        """Whether normfold's result is slower beyond doubt."""
        return self.to_best is not None and self.to_best.low > LIMIT


@dataclass(frozen=True)
class Contender:
    """A session, what it is fed, and how many runs make a block."""

    session: Any
    feed: dict[str, Any]
    runs: int

    @staticmethod
    def of(path: Path) -> Contender:
        """Open ``path`` with the default session options, warm it up and size its blocks."""
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = THREADS
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        feed = make_feed(session)
        session.run(None, feed)
        started = time.perf_counter()
        session.run(None, feed)
        once = time.perf_counter() - started
        return Contender(session, feed, max(3, min(50, round(BLOCK_SECONDS / max(once, 1e-6)))))

    def block(self) -> float:
        """Median seconds of one block of runs, after one that is not counted."""
        import numpy as np

        self.session.run(None, self.feed)
        times = []
        for _ in range(self.runs):
            started = time.perf_counter()
            self.session.run(None, self.feed)
            times.append(time.perf_counter() - started)
        return float(np.median(times))


def make_feed(session: Any) -> dict[str, Any]:
    """Normal numbers for every input; a free dimension is 1."""
    import numpy as np

    generator = np.random.default_rng(SEED)
    feed = {}
    for value in session.get_inputs():
        shape = [size if isinstance(size, int) else FREE_DIMENSION for size in value.shape]
        feed[value.name] = generator.standard_normal(shape).astype(np.float32)
    return feed


def race(files: Mapping[str, Path], blocks: int) -> dict[str, NDArray[np.float64]]:
    """Seconds of every contender's blocks, ``[blocks]`` each; entries of one index belong to one turn."""
    import numpy as np

    contenders = {name: Contender.of(path) for name, path in files.items()}
    order, generator = list(contenders), np.random.default_rng(SEED)
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(blocks):
        generator.shuffle(order)
        for name in order:
            times[name].append(contenders[name].block())
    return {name: np.asarray(values) for name, values in times.items()}


def compare(mine: NDArray[np.float64], other: NDArray[np.float64]) -> Ratio:
    """Median of the paired ratios of ``mine`` to ``other`` with its bootstrap interval."""
    import numpy as np

    logs = np.log(mine / other)
    picks = np.random.default_rng(SEED).integers(0, logs.size, (RESAMPLES, logs.size))
    low, high = np.quantile(np.median(logs[picks], axis=1), [0.025, 0.975])
    return Ratio(*(round(math.exp(value), 4) for value in (float(np.median(logs)), float(low), float(high))))


def measure(source: Path, blocks: int, limit: float) -> Row:
    """Fold ``source`` with every tool and time the results."""
    import numpy as np

    with tempfile.TemporaryDirectory() as scratch:
        files, left_out = fold_all(Bench(source, Path(scratch), limit))
        first = race({SOURCE: source, **files}, blocks)
        milliseconds = {name: round(float(np.median(values)) * 1e3, 3) for name, values in first.items()}
        rivals = [name for name in files if name != peers.NORMFOLD]
        if peers.NORMFOLD not in files or not rivals:
            return Row(source.stem, milliseconds, left_out)
        best = min(rivals, key=milliseconds.__getitem__)
        second = race({name: files[name] for name in (peers.NORMFOLD, best)}, blocks)
        to_best = compare(second[peers.NORMFOLD], second[best])
        to_source = compare(first[peers.NORMFOLD], first[SOURCE])
        return Row(source.stem, milliseconds, left_out, best, to_best, to_source)


def fold_all(bench: Bench) -> tuple[dict[str, Path], dict[str, str]]:
    """Results by tool, and the tools whose result is missing or wrong, with the reason."""
    problem = bench.evaluate(bench.source, bench.expected)
    before = census_of(bench.source)
    files, left_out = {}, {}
    for tool in peers.TOOLS:
        outcome = bench.outcome(tool, before)
        if outcome.status in ("right", "unchecked"):
            files[tool] = bench.scratch / f"{tool}.onnx"
        else:
            left_out[tool] = f"{outcome.status} {outcome.message}".strip()
    return files, left_out if not problem else {**left_out, SOURCE: problem}


def show(row: Row) -> None:
    """Print one line."""
    times = " ".join(f"{row.milliseconds.get(name, math.nan):9.2f}" for name in (SOURCE, *peers.TOOLS))
    best = "-" if row.to_best is None else f"{row.to_best.cell} {row.best}"
    print(f"{row.model:24} {times}  {best}{'  SLOWER' if row.flagged else ''}", flush=True)


def geometric_mean(rows: Sequence[Row]) -> float | None:
    """Of the ratios to the best peer."""
    ratios = [row.to_best.ratio for row in rows if row.to_best is not None]
    return math.exp(sum(map(math.log, ratios)) / len(ratios)) if ratios else None


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; exits 1 where a result is slower than the best peer's beyond doubt."""
    parser = argparse.ArgumentParser(description="Time the results of normfold and its peers.")
    parser.add_argument("--folder", type=Path, default=zoo.FOLDER, help="where the zoo lies (default: %(default)s)")
    parser.add_argument("--models", default="", help="names, separated by commas (default: all of the zoo)")
    parser.add_argument("--blocks", type=int, default=30, help="turns in each of the two runs (default: %(default)s)")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds for one tool (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args(arguments)
    wanted = [name for name in options.models.split(",") if name]
    found = {path.stem: path for path in sorted(options.folder.glob("*.onnx"))}
    if missing := [name for name in wanted if name not in found]:
        parser.error(f"not in {options.folder}: {', '.join(missing)}")
    names = " ".join(f"{name[:9]:>9}" for name in (SOURCE, *peers.TOOLS))
    print(f"{'ms':24} {names}  normfold / best peer")
    rows = []
    for name in wanted or found:
        rows.append(measure(found[name], options.blocks, options.limit))
        show(rows[-1])
    mean = geometric_mean(rows)
    flagged = [row.model for row in rows if row.flagged]
    print(f"geometric mean {'-' if mean is None else f'{mean:.3f}'} over {len(rows)} models, {len(flagged)} slower")
    if options.json:
        document = {"versions": peers.versions(), "threads": THREADS, "blocks": options.blocks}
        document |= {"load": os.getloadavg(), "geometric_mean": mean, "rows": [asdict(row) for row in rows]}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    return 1 if flagged else 0


if __name__ == "__main__":
    sys.exit(main())
