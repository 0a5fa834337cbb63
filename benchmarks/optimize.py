"""What ``normfold optimize`` makes of networks, beside the best that peers make of them within the same budget.

    python benchmarks/optimize.py --garden path/to/garden --json out/optimize.json
    python benchmarks/optimize.py --zoo out/zoo --networks resnet50,convnext_atto --json out/optimize-zoo.json

A peer is onnxsim or OnnxSlim, alone and followed by each recipe of ``onnxruntime.quantization`` that `quantizers.py`
lists. All get the same calibration data, and all are scored on the same test data: on the garden at most 0.2 points of
top-1 may be lost (0.002 of the denoiser's mean squared error), on networks with random weights the cosine of the
outputs to the source's is at least 0.99 on 200 synthetic inputs. A peer that misses the budget is listed and left out.

Then one interleaved run (`normfold.measure`) of the source, of normfold's result and of all peers within the budget.
The ratio is that of the fastest peer's time to normfold's, of the same run. Exit 1 where normfold's result is slower.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import common
import garden_accuracy
import numpy as np
import peers
import quantize
import quantizers

from normfold.measure import Interval
from normfold.measure.run import between
from normfold.report.environment import environment

TOOLS: Final = ("onnxsim", "onnxslim")
RECIPES: Final = tuple(name for name, recipe in quantizers.RECIPES.items() if recipe.unsigned)
OURS: Final = "normfold"
PICTURES: Final = {"garden": 5000, "zoo": 200}


@dataclass(frozen=True, slots=True)
class Budget:
    """The metric as ``normfold optimize`` has it, and how much of it may be lost."""

    metric: str
    most: float


@dataclass(frozen=True, slots=True)
class Line:
    """One file: what it loses, whether that is within the budget, and its time over the source's."""

    name: str
    drop: float | None = None
    holds: bool = False
    milliseconds: float | None = None
    ratio: Interval | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One network at one batch size."""

    network: str
    batch: int
    budget: Budget
    lines: tuple[Line, ...]
    best: str
    """The fastest peer within the budget, or the source."""
    faster: Interval
    """How many times faster than that normfold's result is."""
    verdict: str
    chosen: str
    """The stage of `optimize` whose result was handed over."""
    warnings: tuple[str, ...]
    load: float
    seconds: float


def budget_of(network: quantize.Network) -> Budget:
    """The budget of a network."""
    if network.metric == "top-1":
        return Budget("top1", 0.2)
    return Budget("mse", 0.002) if network.metric == "100 mse" else Budget("cosine", 0.01)


def data_files(network: quantize.Network, folder: Path) -> tuple[Path, Path]:
    """Calibration and test data as files."""
    calibration, test = folder / "calibration.npz", folder / "test.npz"
    if not calibration.is_file():
        np.savez(calibration, **network.calibration())
    if not test.is_file():
        given: dict[str, Any] = dict(network.test())
        if isinstance(network, quantize.Garden):
            pictures, labels = garden_accuracy.pictures(network.folder, network.count)
            given["label"] = pictures if network.metric == "100 mse" else labels
        np.savez(test, **given)
    return calibration, test


def drop_of(network: quantize.Network, budget: Budget, outputs: Any, reference: Any) -> float:
    """How much worse ``outputs`` are than the source's, in the unit of the metric."""
    if budget.metric == "cosine":
        found, wanted = (one.astype(np.float64).reshape(len(one), -1) for one in (outputs, reference))
        lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(wanted, axis=1)
        return float(1.0 - ((found * wanted).sum(axis=1) / np.maximum(lengths, 1e-30)).mean())
    before, after = (network.scores(one, reference).mean() for one in (reference, outputs))
    return float(before - after) if budget.metric == "top1" else float((after - before) / 100.0)


def optimised(network: quantize.Network, folder: Path, budget: Budget, batch: int, setting: quantize.Setting) -> str:
    """Run ``normfold optimize``; the stage that was chosen, or why there is none."""
    calibration, test = data_files(network, folder)
    command = [sys.executable, "-m", "normfold", "optimize", str(network.source), "-o", str(folder / OURS), "--json"]
    command += ["--calibrate", str(calibration), "--evaluate", str(test), "--metric", budget.metric]
    command += ["--max-drop", str(budget.most), "--threads", str(setting.threads), "--without", "tune"]
    command += [] if quantize.fixed_batch(network.source) else ["--batch", str(batch)]
    command += ["--time-limit", f"{setting.limit:.0f}s"]
    run = quantizers.in_process(OURS, command, folder / OURS / "model.onnx", setting.limit + 60)
    if run.status != "done":
        return f"{run.status} {run.error}".strip()
    report = json.loads((folder / OURS / "report.json").read_text(encoding="utf-8"))
    return str(report["result"]["chosen"])


def peers_of(network: quantize.Network, folder: Path, limit: float) -> tuple[dict[str, Path], dict[str, str]]:
    """The files of all peers by name, and notes on those that made none."""
    data, files, notes = folder / "calibration.npz", dict[str, Path](), dict[str, str]()
    for tool in TOOLS:
        plain = folder / f"{tool}.onnx"
        run = None if plain.is_file() else peers.run(tool, network.source, plain, limit)
        if not plain.is_file():
            notes[tool] = f"{run.status} {run.error}".strip() if run else ""
            continue
        files[tool] = plain
        for recipe in RECIPES:
            name, target = f"{tool}+{recipe}", folder / f"{tool}+{recipe}.onnx"
            print(f"{network.name}: {name}", file=sys.stderr, flush=True)
            made = None if target.is_file() else quantizers.run(recipe, plain, target, data, limit)
            if target.is_file():
                files[name] = target
            else:
                notes[name] = f"{made.status} {made.error}".strip() if made else ""
    return files, notes


def row_of(network: quantize.Network, folder: Path, batch: int, setting: quantize.Setting) -> Row:
    """All about one network at one batch size."""
    load, started = os.getloadavg()[0], time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    budget = budget_of(network)
    chosen = optimised(network, folder, budget, batch, setting)
    if not (folder / OURS / "model.onnx").is_file():
        raise SystemExit(f"{network.name}: normfold optimize made nothing: {chosen}")
    files, notes = peers_of(network, folder, setting.limit)
    files = {OURS: folder / OURS / "model.onnx", **files}
    feeds = network.test()
    reference = quantize.outputs_of(network.source, feeds, setting.threads, optimised=True)
    drops: dict[str, float] = {}
    for name, file in files.items():
        found = quantize.outputs_of(file, feeds, setting.threads, optimised=True)
        if isinstance(found, str) or isinstance(reference, str):
            notes[name] = str(found)[:200]
        else:
            drops[name] = drop_of(network, budget, found, reference)
    holding = {name: files[name] for name, drop in drops.items() if drop <= budget.most}
    cell = quantize.timed(network, {quantize.SOURCE: network.source, **holding}, batch, setting)
    rivals = [name for name in holding if name != OURS]
    best = min(rivals, key=lambda name: cell.comparisons[name].ratio.value, default=quantize.SOURCE)
    ours = OURS if OURS in holding else quantize.SOURCE
    against = between(cell, setting.effort(), best, ours)
    lines = [
        Line(
            name,
            drops.get(name),
            name in holding,
            round(cell.figure(name).latency.value / 1e6, 4) if name in holding else None,
            cell.comparisons[name].ratio if name in holding else None,
            notes.get(name, ""),
        )
        for name in (*files, *(name for name in notes if name not in files))
    ]
    ratio = against.ratio
    return Row(
        network.name,
        batch,
        budget,
        tuple(lines),
        best,
        Interval(1 / ratio.value, 1 / ratio.high, 1 / ratio.low),
        against.verdict,
        chosen,
        cell.warnings,
        load,
        round(time.perf_counter() - started, 1),
    )


def show(row: Row) -> None:
    """Print a network's table."""
    heads = ("model", f"{row.budget.metric} lost", "budget", "ms", "over the source")
    rows = [
        (
            line.name,
            "-" if line.drop is None else f"{line.drop:.3g}",
            "kept" if line.holds else "missed" if line.drop is not None else line.note[:40],
            "-" if line.milliseconds is None else f"{line.milliseconds:.4g}",
            "-" if line.ratio is None else f"{line.ratio.value:.3f} [{line.ratio.low:.3f}, {line.ratio.high:.3f}]",
        )
        for line in row.lines
    ]
    common.show_table(f"{row.network}, batch {row.batch}, load {row.load:.1f}", heads, rows, ("model",))
    found = f"{row.faster.value:.2f}x [{row.faster.low:.2f}, {row.faster.high:.2f}]"
    print(f"normfold ({row.chosen}) has {found} the speed of {row.best}: {row.verdict}")
    for warning in row.warnings:
        print(f"  {warning}")


def written(path: Path | None, rows: Mapping[str, Any], setting: quantize.Setting) -> None:
    """Bring the file of figures up to date."""
    document = {"benchmark": "optimize", "setting": asdict(setting), "environment": environment()}
    document |= {"geometric_mean": mean(rows), "rows": list(rows.values())}
    common.write_json(path, document)


def mean(rows: Mapping[str, Any]) -> float | None:
    """Geometric mean of the speed over the best peer's."""
    return quantize.geometric_mean([row["faster"]["value"] for row in rows.values()])


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--garden", type=Path, default=garden_accuracy.GARDEN, help="folder of the garden")
    parser.add_argument("--zoo", type=Path, help="folder of random networks, instead of the garden")
    parser.add_argument("--networks", default="", help="names, separated by commas (default: all)")
    parser.add_argument("--batch", type=int, default=1, help="(default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="(default: %(default)s)")
    parser.add_argument("--processes", type=int, default=5, help="of a run (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of a process (default: %(default)s)")
    parser.add_argument("--limit", type=float, default=900.0, help="seconds for one tool (default: %(default)s)")
    parser.add_argument("--pictures", type=int, default=0, help="test pictures (default: 5000, of the zoo 200)")
    parser.add_argument("--results", type=Path, default=Path("out/optimize"), help="files made (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here, and go on from there")
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> int:
    """Entry point."""
    options = arguments(given)
    options.pictures = options.pictures or PICTURES["zoo" if options.zoo else "garden"]
    setting = quantize.Setting(
        (options.batch,), options.threads, RECIPES, options.processes, options.seconds, options.limit
    )
    rows: dict[str, Any] = {}
    if options.json is not None and options.json.is_file():
        rows = {row["network"]: row for row in json.loads(options.json.read_text(encoding="utf-8"))["rows"]}
    for network in quantize.networks(options):
        if network.name not in rows:
            row = row_of(network, options.results / network.name, options.batch, setting)
            rows[network.name] = json.loads(json.dumps(asdict(row)))
            written(options.json, rows, setting)
            show(row)
    found, slower = mean(rows), [name for name, row in rows.items() if row["verdict"] == "slower"]
    print(f"geometric mean over the best peers: {'-' if found is None or math.isnan(found) else f'{found:.2f}x'}")
    print(f"slower than the best peer: {', '.join(slower) or 'none'}")
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
