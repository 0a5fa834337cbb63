"""What calibrating costs beside running the network over the same samples: time, and memory by number of samples.

    python benchmarks/zoo.py --only resnet50
    python benchmarks/calibration_cost.py out/zoo/resnet50.onnx --samples 1000

Both run in workers of their own, in turns of `--turn` samples: plain runs, and runs with statistics of every value.
The ratio is the median over turns. Memory is the worker's peak after a tenth of the samples and after all of them. The
exit is 1 where calibrating takes more than 1.5 times as long, or memory grows by more than a twentieth.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import common
import onnx_ir as ir
import torch
import zoo

import normfold
from normfold.backends.onnx import OnnxGraph
from normfold.backends.onnx.integers.read import read_network
from normfold.core.integers.form import integer_form
from normfold.models.dataset import read_dataset
from normfold.models.source import runnable
from normfold.passes.quantize.outputs import BATCH
from normfold.passes.quantize.statistics import drawn, watched
from normfold.proof.probes import input_specs
from normfold.runtime import CHECKER, Drawn, Failed, Runnable, WorkerClient

MOST_TIME: Final = 1.5
MOST_GROWTH: Final = 1.05


def peak(pid: int | None) -> int:
    """The most memory that the process had, in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))


def client(file: Runnable, extra: list[str]) -> WorkerClient:
    """A worker that holds the model."""
    made = WorkerClient(time_limit=600.0, threads=2)
    made.expect(None)
    loaded = made.load(file, extra_outputs=extra, optimised=True)
    if isinstance(loaded, Failed):
        raise SystemExit(loaded.message)
    return made


def samples(count: int, size: int, name: str) -> Iterator[dict[str, Any]]:
    """Random pictures, one at a time."""
    torch.manual_seed(1)
    for _ in range(count):
        yield {name: zoo.pictures(1, size).numpy()}


@dataclass
class Cost:
    """Two workers and what was measured of them so far."""

    plain: WorkerClient
    observing: WorkerClient
    watched: dict[str, int | None]
    drawn: Drawn
    ratios: list[float] = field(default_factory=list)
    peaks: list[int] = field(default_factory=list)
    seconds: Counter[str] = field(default_factory=Counter)

    def turn(self, feeds: list[dict[str, Any]]) -> None:
        """Run and observe each of ``feeds``."""
        spent = Counter[str]()
        jobs = {"run": self.plain.run, "observe": lambda feed: self.observing.observe(feed, self.watched, self.drawn)}
        for feed in feeds:
            for kind, job in jobs.items():
                started = time.perf_counter()
                if isinstance(ended := job(feed), Failed):
                    raise SystemExit(ended.message)
                spent[kind] += time.perf_counter() - started
        self.ratios.append(spent["observe"] / spent["run"])
        self.seconds += spent

    def close(self) -> None:
        """End both."""
        for one in (self.plain, self.observing):
            one.close()
            one.dispose()


def measured(model: ir.Model, count: int, turn: int) -> Cost:
    """Go through ``count`` samples."""
    graph = OnnxGraph(model, CHECKER.infer)
    network = integer_form(read_network(graph))
    wanted = watched(network)
    windows = {str(k): spec for k, spec in enumerate(drawn(network).values()) if spec[0] in wanted}
    (given,) = input_specs(model)
    size = (given.shape or (1, 3, 224, 224))[-1]
    data = read_dataset(lambda: samples(count, int(str(size)), given.name), (given,))
    extra = [name for name in wanted if name not in (*network.inputs, *network.outputs)]
    with runnable(graph.model) as file:
        cost = Cost(client(file, []), client(file, extra), dict(wanted), windows)
        try:
            feeds = list[dict[str, Any]]()
            for number, batch in enumerate(data.batches(BATCH), 1):
                feeds.append(batch.inputs)
                if len(feeds) == turn or number == count:
                    cost.turn(feeds)
                    feeds.clear()
                if number in (max(turn, count // 10), count):
                    cost.peaks.append(peak(cost.observing.pid))
        finally:
            cost.close()
    return cost


def main() -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--turn", type=int, default=20, help="samples of a turn (default: %(default)s)")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    cost = measured(normfold.fold(options.model).model, options.samples, options.turn)
    ratio, growth = statistics.median(cost.ratios), cost.peaks[-1] / cost.peaks[0]
    print(f"{options.model.stem}: {options.samples} samples, {len(cost.watched)} values")
    print(f"running {cost.seconds['run']:.1f} s, calibrating {cost.seconds['observe']:.1f} s: {ratio:.2f}x")
    first, last = (peak_ / 2**20 for peak_ in (cost.peaks[0], cost.peaks[-1]))
    print(f"memory {first:.0f} MiB after a tenth, {last:.0f} MiB after all: {growth:.3f}x")
    document = {"benchmark": "calibration_cost", "samples": options.samples, "ratio": ratio, "peaks": cost.peaks}
    common.write_json(options.json, document | dict(cost.seconds))
    return int(ratio > MOST_TIME or growth > MOST_GROWTH)


if __name__ == "__main__":
    sys.exit(main())
