"""How many norms each tool leaves, on every network of the zoo, and whether its result is still right.

Every tool runs as a subprocess on the same file. The norms left are counted by `norm_count`, which belongs
to no tool, and every result is compared with its source by ONNX Runtime with optimisations off.

    python benchmarks/zoo.py
    python benchmarks/fold_coverage.py --json out/fold_coverage.json
    python benchmarks/fold_coverage.py --only 'resnet*' --tool onnxslim --tool normfold more/models/*.onnx

A cell reads ``left`` or ``left+inserted``: norms left, and live operations (Pad, Add, Mul, Concat, linear
ones) that the result has more of than the source. Their sum is the *residue*. Behind it stands ``wrong``
(largest error above 1e-3 of the output's range, or a result that ONNX Runtime refuses), ``crash``, ``timeout``.
The verdict compares norms left with the best peer whose result is right.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import common
import peers
from norm_count import Census, census_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Values = dict[str, Any]

TOLERANCE: Final = 1e-3
PROBES: Final = 2
FREE_DIMENSION: Final = 2
GARDEN: Final = Path(__file__).resolve().parents[2] / "shared" / "garden" / "onnx"
Verdict = Literal["better", "equal", "worse", "failed", "-"]
Status = Literal["right", "wrong", "unchecked", "crash", "timeout", "missing"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one tool made of one model."""

    tool: str
    version: str
    status: Status
    norms: int | None = None
    batch_norms: int | None = None
    affine_chains: int | None = None
    other_norms: int | None = None
    inserted: dict[str, int] = field(default_factory=dict)
    error: float | None = None
    """Largest difference on random inputs, relative to the range of the output it was seen at."""
    seconds: float = 0.0
    message: str = ""
    decisions: dict[str, int] | None = None
    """The tool's own count of norms by outcome, where it reports one."""

    @property
    def residue(self) -> int | None:
        """Norms left plus operations inserted."""
        return None if self.norms is None else self.norms + sum(self.inserted.values())

    @property
    def cell(self) -> str:
        """The outcome as one table cell."""
        if self.norms is None:
            return "-" if self.status == "missing" else self.status
        extra = sum(self.inserted.values())
        text = f"{self.norms}+{extra}" if extra else f"{self.norms}"
        return text if self.status == "right" else f"{text} {self.status}"


@dataclass(frozen=True, slots=True)
class Row:
    """One model: what its source holds and what every tool left."""

    model: str
    batch_norms: int
    affine_chains: int
    other_norms: int
    outcomes: dict[str, Outcome]

    @property
    def norms(self) -> int:
        """Foldable norms of the source."""
        return self.batch_norms + self.affine_chains

    def best_peer(self) -> Outcome | None:
        """Return the peer with the fewest norms left among those whose result is right."""
        candidates = [o for tool, o in self.outcomes.items() if tool in peers.PEERS and o.status == "right"]
        return min(candidates, key=lambda o: (o.norms or 0, o.residue or 0), default=None)

    def verdict(self) -> Verdict:
        """How normfold stands against the best peer."""
        mine, best = self.outcomes.get(peers.NORMFOLD), self.best_peer()
        if mine is None or mine.status == "missing":
            return "-"
        if mine.norms is None or mine.status == "wrong":
            return "failed"
        limit = self.norms if best is None or best.norms is None else best.norms
        return "better" if mine.norms < limit else "equal" if mine.norms == limit else "worse"


def evaluate(model: Path, feeds: Path, target: Path) -> None:
    """Run ``model`` on every probe in ``feeds`` and save its outputs; makes the feeds where there are none.

    Inputs that the feeds do not name get values of their own: ONNX Runtime keeps the graph inputs of
    initializers that it has dropped. They cannot matter where the outputs agree.
    """
    import numpy as np

    session = common.session(model, level=common.PLAIN)
    if not feeds.is_file():
        np.savez(feeds, **make_feeds(session.get_inputs()))
    results: Values = {}
    spare = make_feeds(session.get_inputs())
    with np.load(feeds) as probes:
        for probe in range(PROBES):
            named = {key: probes[key] if key in probes.files else value for key, value in spare.items()}
            feed = {key.split("/", 1)[1]: value for key, value in named.items() if key.startswith(f"{probe}/")}
            values = session.run(None, feed)
            results |= {f"{probe}/{place}": value for place, value in enumerate(values)}
    np.savez(target, **results)


def make_feeds(inputs: Iterable[Any]) -> Values:
    """Random values for every input and probe: normal floats, integers 0 and 1, free dimensions 2."""
    import numpy as np

    generator = np.random.default_rng(7)
    feeds: Values = {}
    for probe in range(PROBES):
        for value in inputs:
            shape = [size if isinstance(size, int) else FREE_DIMENSION for size in value.shape]
            kind = value.type.removeprefix("tensor(").removesuffix(")")
            dtype = np.dtype({"float": "float32", "double": "float64"}.get(kind, kind))
            noise = generator.standard_normal(shape) if dtype.kind == "f" else generator.integers(0, 2, shape)
            feeds[f"{probe}/{value.name}"] = noise.astype(dtype)
    return feeds


def largest_error(expected: Path, actual: Path) -> float:
    """Largest difference over all outputs, relative to the range of the output it was seen at."""
    import numpy as np

    worst = 0.0
    with np.load(expected) as wanted, np.load(actual) as found:
        if set(wanted.files) != set(found.files):
            return float("inf")
        for name in wanted.files:
            source, result = wanted[name].astype(np.float64), found[name].astype(np.float64)
            if source.shape != result.shape or not np.array_equal(np.isfinite(source), np.isfinite(result)):
                return float("inf")
            worst = max(worst, relative_difference(source, result))
    return worst


def relative_difference(source: NDArray[np.float64], result: NDArray[np.float64]) -> float:
    """Largest absolute difference over the range of ``source``, or over its magnitude where it is constant."""
    import numpy as np

    finite = np.isfinite(source)
    if not finite.any():
        return 0.0
    source, result = source[finite], result[finite]
    magnitude = float(np.abs(source).max())
    spread = float(np.ptp(source))
    scale = spread if spread > 1e-3 * magnitude else magnitude
    return float(np.abs(source - result).max()) / (scale or 1.0)


@dataclass(frozen=True, slots=True)
class Bench:
    """One model under test: its file, a scratch folder, and the limit in seconds for every step."""

    source: Path
    scratch: Path
    limit: float

    @property
    def feeds(self) -> Path:
        """Where the probes lie."""
        return self.scratch / "feeds.npz"

    @property
    def expected(self) -> Path:
        """Where the source's outputs lie."""
        return self.scratch / "expected.npz"

    def evaluate(self, model: Path, target: Path) -> str:
        """Run ``model`` in a process of its own and return what went wrong, or an empty string."""
        command = [sys.executable, __file__, "--evaluate", str(model), str(self.feeds), str(target)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=self.limit, env=common.one_thread(), check=False
            )
        except subprocess.TimeoutExpired:
            return f"no outputs within {self.limit:.0f} s"
        if done.returncode == 0:
            return ""
        words = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        return f"exit {done.returncode}: {words[-1][:300] if words else 'no message'}"

    def outcome(self, tool: str, before: Census) -> Outcome:
        """Run ``tool``, count what it left and compare its outputs with the source's."""
        target, log = self.scratch / f"{tool}.onnx", self.scratch / f"{tool}.log"
        version = peers.version_of(tool)
        ended = peers.run(tool, self.source, target, self.limit, log)
        if ended.status != "done":
            return Outcome(tool, version, ended.status, seconds=ended.seconds, message=ended.error)
        status, error, message = self.compare(target)
        after = census_of(target)
        return Outcome(
            tool,
            version,
            status,
            after.norms,
            after.batch_norms,
            after.affine_chains,
            after.other_norms,
            after.inserted(before),
            error,
            ended.seconds,
            message,
            own_counts(log) if tool == peers.NORMFOLD else None,
        )

    def compare(self, target: Path) -> tuple[Status, float | None, str]:
        """Status, largest relative error and message of a result."""
        if not self.expected.is_file():
            return "unchecked", None, "the source does not run"
        actual = target.with_suffix(".npz")
        if problem := self.evaluate(target, actual):
            return "wrong", None, problem
        error = largest_error(self.expected, actual)
        return ("right" if error <= TOLERANCE else "wrong"), error, ""


def own_counts(log: Path) -> dict[str, int] | None:
    """Return the counts that ``normfold fold --json`` printed, or None where it printed none."""
    try:
        counts = json.loads(log.read_text())["result"]["counts"]
    except (json.JSONDecodeError, KeyError, TypeError):
        return None
    return dict(counts)


def measure(source: Path, tools: Sequence[str], limit: float, cache: Path) -> Row:
    """Run every tool on ``source``; a peer's outcome of an earlier run on the same bytes is reused."""
    before = census_of(source)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:16]
    outcomes: dict[str, Outcome] = {}
    with tempfile.TemporaryDirectory(prefix="fold_coverage_") as scratch:
        bench = Bench(source, Path(scratch), limit)
        for tool in tools:
            record = cache / f"{source.stem}.{digest}.{tool}-{peers.version_of(tool)}.json"
            if tool != peers.NORMFOLD and record.is_file():
                outcomes[tool] = Outcome(**json.loads(record.read_text()))
                continue
            if not bench.feeds.is_file():
                bench.evaluate(source, bench.expected)
            outcomes[tool] = bench.outcome(tool, before)
            if tool != peers.NORMFOLD and outcomes[tool].status != "missing":
                record.write_text(json.dumps(asdict(outcomes[tool])))
    name = f"garden/{source.stem}" if source.parent == GARDEN else source.stem
    return Row(name, before.batch_norms, before.affine_chains, before.other_norms, outcomes)


def as_json(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the rows, the versions and the totals as one document."""
    verdicts = [row.verdict() for row in rows]
    return {
        "benchmark": "fold_coverage",
        "versions": peers.versions(),
        "tolerance": TOLERANCE,
        "totals": {verdict: verdicts.count(verdict) for verdict in sorted(set(verdicts))},
        "models": [row_as_json(row) for row in rows],
    }


def row_as_json(row: Row) -> dict[str, Any]:
    """Return one row as a plain dictionary."""
    best = row.best_peer()
    return {
        "model": row.model,
        "source": {"batch_norms": row.batch_norms, "affine_chains": row.affine_chains, "other_norms": row.other_norms},
        "best_peer": None if best is None else best.tool,
        "verdict": row.verdict(),
        "outcomes": {tool: {**asdict(o), "residue": o.residue} for tool, o in row.outcomes.items()},
    }


def as_summary(rows: Sequence[Row]) -> dict[str, Any]:
    """Return what the coverage page shows: norms left by the best peer and by normfold."""
    return {
        "benchmark": "fold_coverage",
        "versions": {tool: version for tool, version in peers.versions().items() if tool in peers.PEERS},
        "models": [row_as_summary(row) for row in rows],
    }


def row_as_summary(row: Row) -> dict[str, Any]:
    """Return one line of the page."""
    best, mine = row.best_peer(), row.outcomes.get(peers.NORMFOLD)
    return {
        "model": row.model,
        "norms": row.norms,
        "other_norms": row.other_norms,
        "best_peer": None if best is None else best.tool,
        "best": None if best is None else best.cell,
        "normfold": None if mine is None else mine.cell,
        "verdict": row.verdict(),
    }


def show(rows: Sequence[Row], tools: Sequence[str]) -> None:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Norms left (+ operations inserted)", header_style="bold")
    table.add_column("model", no_wrap=True)
    for name in ("norms", "LN..", *(t for t in tools if t in peers.PEERS), "best", peers.NORMFOLD):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict")
    colours = {"better": "green", "worse": "red", "failed": "bold red"}
    for row in rows:
        best, verdict = row.best_peer(), row.verdict()
        mine = row.outcomes.get(peers.NORMFOLD)
        table.add_row(
            row.model,
            str(row.norms),
            str(row.other_norms or ""),
            *(row.outcomes[tool].cell for tool in tools if tool in peers.PEERS),
            best.cell if best else "-",
            mine.cell if mine else "-",
            f"[{colours[verdict]}]{verdict}[/]" if verdict in colours else verdict,
        )
    console = Console()
    Console(width=max(console.width, 170)).print(table)


def sources(folder: Path, extra: Sequence[Path], patterns: Sequence[str]) -> list[Path]:
    """Model files to measure: the zoo, the garden where it is, and those named; restricted to ``patterns``."""
    found = [*sorted(folder.glob("*.onnx")), *sorted(GARDEN.glob("*.onnx")), *extra]
    return [path for path in found if not patterns or any(fnmatch.fnmatch(path.stem, p) for p in patterns)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; exits 1 when normfold fails on a model or leaves more norms than the best peer."""
    if sys.argv[1:2] == ["--evaluate"]:
        evaluate(*map(Path, sys.argv[2:5]))
        return 0
    parser = argparse.ArgumentParser(description="Count the norms that each tool leaves.")
    parser.add_argument("models", nargs="*", type=Path, help="further ONNX files")
    parser.add_argument("--zoo", type=Path, default=Path("out/zoo"), help="folder of the zoo (default: %(default)s)")
    parser.add_argument("--only", action="append", default=[], metavar="GLOB", help="models whose name matches")
    parser.add_argument("--tool", action="append", default=[], choices=peers.TOOLS, help="run these tools only")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds for one step (default: %(default)s)")
    parser.add_argument("--cache", type=Path, default=Path("out/peers"), help="outcomes of peers are kept here")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as JSON")
    parser.add_argument("--summary", type=Path, metavar="FILE", help="write what the coverage page shows as JSON")
    options = parser.parse_args(arguments)
    tools = [tool for tool in peers.TOOLS if not options.tool or tool in options.tool]
    options.cache.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    for path in sources(options.zoo, options.models, options.only):
        rows.append(measure(path, tools, options.limit, options.cache))
        cells = "  ".join(f"{tool} {outcome.cell}" for tool, outcome in rows[-1].outcomes.items())
        print(f"{path.stem}: {rows[-1].norms} norms  {cells}", file=sys.stderr, flush=True)
    show(rows, tools)
    for path, document in ((options.json, as_json), (options.summary, as_summary)):
        if path is not None:
            common.write_json(path, document(rows))
    return 1 if {row.verdict() for row in rows} & {"worse", "failed"} else 0


if __name__ == "__main__":
    sys.exit(main())
