"""Folded and quantised networks on other targets: ratios to the source where a clock is there, and equal outputs.

    python benchmarks/edge.py --targets node,browser --threads 1,2 --json out/edge.json
    python benchmarks/edge.py --targets local,ssh://user@host --networks resnet20

For every network of the garden, its folded model and an int8 one (QDQ, calibrated on its pictures) are timed beside it,
one picture at a time, by `normfold.measure`: fresh processes, blocks in turns, intervals (docs/edge.md says what the
figures of each target mean). Outputs are compared with those of the same model on this machine; a mismatch is printed
with the first value that differs, and the exit is 1. A target that cannot run here is named with the command that makes
it, and left out.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import garden_accuracy

import normfold
from normfold.errors import NormfoldError
from normfold.measure import Cell, Conditions, Effort, Experiment, measure, open_candidate
from normfold.measure.documents import cell_record
from normfold.report.environment import environment
from normfold.runtime.targets import find

EFFORT: Final = Effort(first=5, most=10, per_process=1.0, time_limit=90.0, copies=1, details=True)
CALIBRATED: Final = 200
"""Pictures that the int8 model's scales come from."""
RTOL: Final = 0.5
"""What int8 may differ by from the source: whether it is good enough is a question for another benchmark."""


@dataclass(frozen=True, slots=True)
class Row:
    """One network on one target with so many threads."""

    network: str
    target: str
    threads: int
    cell: Cell

    def record(self) -> dict[str, Any]:
        """As the file of figures has it."""
        return {"network": self.network, "target": self.target, "threads": self.threads, **cell_record(self.cell)}

    def lines(self) -> Iterator[str]:
        """A line for each model."""
        head = f"{self.network:12} {self.target:22} {self.threads}"
        if self.cell.refused is not None:
            yield f"{head}  [{self.cell.refused.code}] {self.cell.refused.message}"
            return
        for figure in self.cell.figures:
            one = self.cell.comparisons.get(figure.name)
            ratio = "" if one is None else f"{one.ratio.value:.3f} ({one.ratio.low:.3f} to {one.ratio.high:.3f})"
            peak = None if figure.details is None else figure.details.peak_rss
            memory = "-" if peak is None else f"{peak / 2**20:.0f} MiB"
            times = f"{figure.latency.value / 1e6:9.3f} ms  {memory:>8}  deviation {figure.deviation:.1e}"
            yield f"{head}  {figure.name:8} {times}  {ratio}{'' if one is None else ' ' + one.verdict}"


def variants(source: Path, folder: Path, pictures: Any) -> dict[str, Path]:
    """The files of a network: as it is, folded, and in int8; one that cannot be made is left out, and said."""
    import onnx

    name = onnx.load(source).graph.input[0].name
    files = {"source": source, "folded": folder / "folded.onnx", "int8": folder / "int8.onnx"}
    normfold.fold(source, output=files["folded"])
    try:
        normfold.quantize(
            source, output=files["int8"], calibrate={name: pictures}, format="qdq", unmeasured=True, force=True
        )
    except NormfoldError as error:
        print(f"{source.stem}: no int8 [{error.code}]: {error.message}", file=sys.stderr)
    return {kind: file for kind, file in files.items() if file.exists()}


def measured(network: str, files: Mapping[str, Path], name: str, threads: Sequence[int]) -> Iterator[Row]:
    """The figures of one network on the target called ``name``."""
    for count in threads:
        with ExitStack() as stack:
            target = stack.enter_context(find(name).reached())
            models = tuple(stack.enter_context(open_candidate(file, kind)) for kind, file in files.items())
            conditions = Conditions(threads=count, target=target.name)
            experiment = Experiment(models, conditions, EFFORT, rtol=RTOL, target=target)
            yield Row(network, name, count, measure(experiment))


def usable(names: Sequence[str]) -> list[str]:
    """Those that can run here."""
    for name in names:
        if (target := find(name)).missing:
            print(f"{name}: {target.missing}; {target.install}", file=sys.stderr)
    return [name for name in names if not find(name).missing]


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--targets", default="local,node,browser")
    parser.add_argument("--threads", default="1", help="such as 1,2")
    parser.add_argument("--networks", default="")
    parser.add_argument("--garden", type=Path, default=garden_accuracy.GARDEN)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    threads = [int(count) for count in options.threads.split(",")]
    chosen = [name for name in options.networks.split(",") if name]
    pictures, _labels = garden_accuracy.pictures(options.garden, CALIBRATED, "calibration")
    rows: list[Row] = []
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
    for source in sorted((options.garden / "onnx").glob("*.onnx")):
        if chosen and source.stem not in chosen:
            continue
        with TemporaryDirectory() as folder:
            files = variants(source, Path(folder), pictures)
            for name in usable(options.targets.split(",")):
                for row in measured(source.stem, files, name, threads):
                    rows.append(row)
                    print(*row.lines(), sep="\n", flush=True)
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        document = {"environment": environment(), "cells": [row.record() for row in rows]}
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return int(any(row.cell.refused is not None for row in rows))


if __name__ == "__main__":
    sys.exit(main())
