"""Folds random small networks and checks every result; prints a summary and keeps what went wrong.

    python benchmarks/fuzz_fold.py --count 10000 --seed 0 --json out/fuzz_fold.json

The networks and the check are those of ``tests/fuzz``, which runs the first few hundred. A network is *right* where
every output, and every value that both models name alike, deviates by at most 1e-5 of its range; *rounding* where it
deviates by more, but no more than changing every constant and input by one rounding explains, or not at all in
float64; *skipped* where the source itself is not valid. A *wrong* one is saved as ``SEED.onnx`` in ``--keep`` with its
reason in ``SEED.txt``, cut down to the operations that it takes, and the exit is 1.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import common

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from fuzz.checking import Outcome, check_model, check_seed  # noqa: E402 - found by the line above
from fuzz.graphs import random_feeds, random_model  # noqa: E402


def sweep(seeds: range, workers: int) -> Iterator[Outcome]:
    """Check every seed, in order."""
    if workers == 1:
        yield from map(check_seed, seeds)
        return
    with ProcessPoolExecutor(workers) as pool:
        yield from pool.map(check_seed, seeds, chunksize=25)


def keep(outcome: Outcome, folder: Path) -> None:
    """Save the smallest network found that goes wrong like that of ``outcome``."""
    import onnx

    model = random_model(outcome.seed)
    feeds = random_feeds(model, outcome.seed)
    smaller = shrink(model, feeds)
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(smaller, folder / f"{outcome.seed}.onnx")
    reason = check_model(smaller, feeds).reason
    (folder / f"{outcome.seed}.txt").write_text(f"{outcome.reason}\nsmaller: {reason}\n")


def shrink(model: Any, feeds: Any) -> Any:
    """``model`` with as few outputs, inputs and operations as still go wrong."""
    progress = True
    while progress:
        progress = False
        for smaller in _smaller(model):
            names = {value.name for value in smaller.graph.input}
            if _goes_wrong(smaller, {name: value for name, value in feeds.items() if name in names}):
                model, progress = smaller, True
                break
    return model


def _goes_wrong(model: Any, feeds: Any) -> bool:
    import onnx

    from fuzz.checking import run

    try:
        onnx.checker.check_model(model, full_check=True)
        run(model, feeds, [])
    except Exception:  # noqa: BLE001 - what does not run is no smaller case
        return False
    return check_model(model, feeds).status == "wrong"


def _smaller(model: Any) -> Iterator[Any]:
    """Copies of ``model`` with one output less, or one output replaced by an earlier value; without dead nodes."""
    import onnx

    outputs = list(model.graph.output)
    for k in range(len(outputs)):
        if len(outputs) > 1:
            yield _with_outputs(model, outputs[:k] + outputs[k + 1 :])
    known = {value.name: value for value in onnx.shape_inference.infer_shapes(model).graph.value_info}
    made = {name: node for node in model.graph.node for name in node.output}
    for k, output in enumerate(outputs):
        node = made.get(output.name)
        for name in () if node is None else node.input:
            if name in known and name in made:
                yield _with_outputs(model, [*outputs[:k], known[name], *outputs[k + 1 :]])


def _with_outputs(model: Any, outputs: Sequence[Any]) -> Any:
    import onnx

    out = onnx.ModelProto()
    out.CopyFrom(model)
    del out.graph.output[:]
    unique = {value.name: value for value in outputs}
    out.graph.output.extend(unique.values())
    needed, kept = set(unique), []
    for node in reversed(list(out.graph.node)):
        if needed & set(node.output):
            needed |= set(_reads(node))
            kept.append(node)
    del out.graph.node[:]
    out.graph.node.extend(reversed(kept))
    for entries in (out.graph.initializer, out.graph.input):
        remaining = [entry for entry in entries if entry.name in needed]
        del entries[:]
        entries.extend(remaining)
    return out


def _reads(node: Any) -> Iterator[str]:
    yield from node.input
    for attribute in node.attribute:
        for inner in attribute.g.node:
            yield from _reads(inner)
        for output in attribute.g.output:
            yield output.name


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; exits 1 where a fold is wrong."""
    parser = argparse.ArgumentParser(description="Fold random networks and check every result.")
    parser.add_argument("--count", type=int, default=1000, help="networks (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="the first one's seed (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="processes (default: %(default)s)")
    parser.add_argument("--keep", type=Path, default=Path("out/fuzz"), help="folder for what goes wrong")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args(arguments)
    started, kinds, wrong = time.perf_counter(), Counter[str](), []
    figures = {"nodes": 0, "norms": 0, "folded": 0}
    largest = 0.0
    for outcome in sweep(range(options.seed, options.seed + options.count), options.workers):
        kinds[outcome.status] += 1
        if kinds.total() % 1000 == 0:
            print(f"{kinds.total()} of {options.count}", file=sys.stderr, flush=True)
        figures = {name: count + getattr(outcome, name) for name, count in figures.items()}
        if outcome.status == "wrong":
            print(f"seed {outcome.seed}: {outcome.reason}", flush=True)
            wrong.append(outcome)
            keep(outcome, options.keep)
        else:
            largest = max(largest, outcome.error)
    seconds = time.perf_counter() - started
    print(", ".join(f"{kinds[kind]} {kind}" for kind in ("right", "rounding", "skipped", "wrong")))
    print(f"{figures['nodes']} nodes, {figures['norms']} norms, {figures['folded']} folded, {seconds:.0f} s")
    print(f"largest deviation in float32 of what is right or rounding: {largest:.3g} of the value's range")
    if options.json:
        document = {**dict(kinds), **figures, "seconds": round(seconds, 1), "largest": largest}
        document |= {"seed": options.seed, "count": options.count, "failures": [asdict(outcome) for outcome in wrong]}
        common.write_json(options.json, document)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
