"""What an inserted operation costs on an execution provider, beside the norm that it would replace.

Each case is a small graph around one norm, built four ways or more: without the norm (*bare*), with it
(*BatchNormalization*), and with each operation that a fold may put in its place. All of them take turns in one run; a
round is a block of runs of each, in a random order, and the quietest quarter of the rounds counts. The cost of an
operation is what it adds to the bare graph, in units of what the norm adds there: the quotient of the two medians over
rounds. An entry is the median over its cases.

    python benchmarks/insertion_costs.py --ep cpu     # writes src/normfold/core/costs/cpu.json

A place says between what the operation stands; an entry is called PLACE/OPERATION:

conv
    Conv1x1 - Relu - norm - Conv (padded) - Relu - Conv1x1. ``Add`` has the scale folded and adds d/a before the
    padded convolution, ``Map`` adds its response to the shift after it, ``Pad`` pads with a number first,
    ``Concat`` appends a channel of ones; ``Mul`` and ``Mul+Add`` stand for other norms than BatchNormalization.
matmul
    MatMul - norm - Relu - MatMul, with what exporters put between a product of tokens and its norm. ``Add`` is what a
    fold writes: the bias of a Gemm where the product's rows can be flattened first, else an addition after the product.
pool
    Conv - Relu - norm - pooling - Conv. ``Behind`` is the norm behind the pooling.
pointwise
    Relu - Conv1x1 - average pooling - Relu. ``First`` is the pooling before the convolution; here, the unit is what
    the two add as they were, ``Last``.

``--place PLACE`` measures the cases of one place, and leaves the others in the table as they are.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import common
import numpy as np
import onnx
from onnx import numpy_helper, parser

from normfold.report.environment import environment
from normfold.runtime.providers import PROVIDERS
from normfold.runtime.session_profile import SPINNING

TABLES: Final = Path(__file__).resolve().parents[1] / "src" / "normfold" / "core" / "costs"
EPS: Final = ("cpu", "cuda", "dml")
NORM: Final = "BatchNormalization"
LAST: Final = "Last"
BARE: Final = "bare"
BLOCK_SECONDS: Final = 0.002
"""Shortest time that a block of runs takes."""
SURE: Final = 2.0
"""Standard deviations of a median by which what the norm adds must differ from nothing for its case to say anything."""
QUIET: Final = 0.25
"""Part of the rounds that counts: in the others something else was busy on the machine."""
DTYPES: Final = {"float32": "float", "float16": "float16"}


@dataclass(frozen=True)
class Case:
    """One graph in several variants: ONNX text by operation, ``BARE`` and what ``unit`` names among them."""

    place: str
    about: Mapping[str, Any]
    header: str
    constants: Mapping[str, np.ndarray]
    variants: Mapping[str, str]
    unit: str = NORM

    def model(self, variant: str) -> bytes:
        """The model of one variant, of the constants only those that it reads."""
        proto = parser.parse_model(f"{self.header} {{ {self.variants[variant]} }}")
        read = {name for node in proto.graph.node for name in node.input}
        proto.graph.initializer.extend(
            numpy_helper.from_array(value, name) for name, value in self.constants.items() if name in read
        )
        onnx.checker.check_model(proto, full_check=True)
        return proto.SerializeToString()


def header(shape: Sequence[int], rank: int, dtype: str) -> str:
    """Opening of a model from ``x`` of ``shape`` to ``y`` of ``rank`` free sizes."""
    kind = DTYPES[dtype]
    free = ", ".join("NMPQ"[:rank])
    return (
        f'<ir_version: 8, opset_import: ["" : 17]> case ({kind}[{", ".join(map(str, shape))}] x) => ({kind}[{free}] y)'
    )


def draw(dtype: str, **shapes: Sequence[int]) -> dict[str, np.ndarray]:
    """Constants by name, and four vectors of a norm where ``norm`` says of which length; variances are positive."""
    generator = np.random.default_rng(5)
    size = shapes.pop("norm")
    drawn = {name: generator.normal(0, 1, shape) / np.sqrt(np.prod(shape[1:]) + 1) for name, shape in shapes.items()}
    drawn |= {name: generator.uniform(0.5, 1.5, size) for name in ("s", "b", "m", "v")}
    return {name: value.astype(dtype) for name, value in drawn.items()}


def convolution(channels: int, side: int, *, depthwise: bool, stride: int = 1, dtype: str = "float32") -> Case:
    """A norm between an activation and a padded convolution."""
    group, out = (channels if depthwise else 1), (side - 1) // stride + 1
    held = draw(
        dtype,
        norm=(channels,),
        u=(channels, channels, 1, 1),
        w=(channels, channels // group, 3, 3),
        w1=(channels, channels + 4, 3, 3),
        o=(channels, channels, 1, 1),
        a=(channels, 1, 1),
        d=(channels, 1, 1),
        map=(channels, out, out),
        ones=(1, 4, side, side),
    )
    held |= {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64), "number": np.array(0.5, dtype)}
    conv = f"Conv <pads = [1, 1, 1, 1], strides = [{stride}, {stride}], group = {group}>"
    unpadded = f"Conv <strides = [{stride}, {stride}], group = {group}>"
    start, end = "h = Conv(x, u) r = Relu(h)", "q = Relu(c) y = Conv(q, o)"
    variants = {
        BARE: f"{start} c = {conv}(r, w) {end}",
        NORM: f"{start} n = BatchNormalization(r, s, b, m, v) c = {conv}(n, w) {end}",
        "Mul": f"{start} n = Mul(r, a) c = {conv}(n, w) {end}",
        "Add": f"{start} n = Add(r, d) c = {conv}(n, w) {end}",
        "Mul+Add": f"{start} n0 = Mul(r, a) n = Add(n0, d) c = {conv}(n, w) {end}",
        "Map": f"{start} c0 = {conv}(r, w) c = Add(c0, map) {end}",
        "Pad": f"{start} n = Pad(r, pads, number) c = {unpadded}(n, w) {end}",
    }
    if not depthwise:
        variants["Concat"] = f"{start} n = Concat <axis = 1> (r, ones) c = {conv}(n, w1) {end}"
    about = {"value": [1, channels, side, side], "kernel": 3, "group": group, "stride": stride, "dtype": dtype}
    return Case("conv", about, header((1, channels, side, side), 4, dtype), held, variants)


def product(tokens: int, width: int, between: str, *, dtype: str = "float32") -> Case:
    """A norm behind a matrix product of tokens; ``between`` is what makes its channels the second axis."""
    held = draw(dtype, norm=(width,), u=(width, width), w=(width, width), a=(width,), d=(width,), bias=(width,))
    channels = "[-1, 1]" if between == "transpose" else "[-1]"
    held |= {"size": np.array([-1, width], np.int64), "back": np.array([1, -1, width], np.int64)}
    there, back = {
        "reshape": ("t = Reshape(h, size)", "k = Reshape(r, back)"),
        "transpose": ("t = Transpose <perm = [0, 2, 1]> (h)", "k = Transpose <perm = [0, 2, 1]> (r)"),
    }[between]
    end = f"r = Relu(n) {back} y = MatMul(k, w)"
    biased = "t = Reshape(x, size) n = Gemm(t, u, bias)"
    if between == "transpose":
        biased = "h0 = MatMul(x, u) h = Add(h0, bias) n = Transpose <perm = [0, 2, 1]> (h)"
    held |= {name: held[name].reshape(-1, 1) if channels == "[-1, 1]" else held[name] for name in ("a", "d")}
    variants = {
        BARE: f"h = MatMul(x, u) {there} r = Relu(t) {back} y = MatMul(k, w)",
        NORM: f"h = MatMul(x, u) {there} n = BatchNormalization(t, s, b, m, v) {end}",
        "Mul": f"h = MatMul(x, u) {there} n = Mul(t, a) {end}",
        "Add": f"{biased} {end}",
        "Mul+Add": f"h = MatMul(x, u) {there} n0 = Mul(t, a) n = Add(n0, d) {end}",
    }
    about = {"value": [1, tokens, width], "between": between, "dtype": dtype}
    return Case("matmul", about, header((1, tokens, width), 3, dtype), held, variants)


def pooling(channels: int, side: int, pool: str, *, dtype: str = "float32") -> Case:
    """A norm between an activation and a pooling."""
    held = draw(dtype, norm=(channels,), u=(channels, channels, 3, 3), o=(channels, channels, 3, 3))
    call = {
        "MaxPool": "MaxPool <kernel_shape = [2, 2], strides = [2, 2]>",
        "MaxPool 3x3": "MaxPool <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]>",
        "AveragePool": "AveragePool <kernel_shape = [2, 2], strides = [2, 2]>",
        "GlobalAveragePool": "GlobalAveragePool",
    }[pool]
    start = "h = Conv <pads = [1, 1, 1, 1]> (x, u) r = Relu(h)"
    end = "y = Conv <pads = [1, 1, 1, 1]> (p, o)"
    variants = {
        BARE: f"{start} p = {call}(r) {end}",
        NORM: f"{start} n = BatchNormalization(r, s, b, m, v) p = {call}(n) {end}",
        "Behind": f"{start} n = {call}(r) p = BatchNormalization(n, s, b, m, v) {end}",
    }
    about = {"value": [1, channels, side, side], "pooling": pool, "dtype": dtype}
    return Case("pool", about, header((1, channels, side, side), 4, dtype), held, variants)


def pointwise(inner: int, outer: int, side: int, pool: str, *, dtype: str = "float32") -> Case:
    """A pooling behind a pointwise convolution, as between the blocks of a densenet."""
    held = draw(dtype, norm=(outer,), w=(outer, inner, 1, 1))
    call = {
        "AveragePool": "AveragePool <kernel_shape = [2, 2], strides = [2, 2]>",
        "AveragePool 3x3": "AveragePool <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]>",
        "GlobalAveragePool": "GlobalAveragePool",
    }[pool]
    variants = {
        BARE: "y = Relu(x)",
        LAST: f"r = Relu(x) c = Conv(r, w, b) p = {call}(c) y = Relu(p)",
        "First": f"r = Relu(x) c = {call}(r) p = Conv(c, w, b) y = Relu(p)",
    }
    about = {"value": [1, inner, side, side], "channels": outer, "pooling": pool, "dtype": dtype}
    return Case("pointwise", about, header((1, inner, side, side), 4, dtype), held, variants, unit=LAST)


CASES: Final = (
    convolution(16, 112, depthwise=False),
    convolution(32, 56, depthwise=False),
    convolution(64, 56, depthwise=False),
    convolution(256, 14, depthwise=False),
    convolution(32, 56, depthwise=False, stride=2),
    convolution(64, 56, depthwise=True),
    convolution(128, 28, depthwise=True),
    convolution(256, 14, depthwise=True),
    convolution(64, 28, depthwise=False, dtype="float16"),
    product(196, 128, "reshape"),
    product(49, 256, "reshape"),
    product(196, 384, "reshape"),
    product(196, 128, "transpose"),
    product(49, 256, "transpose"),
    product(196, 128, "reshape", dtype="float16"),
    pooling(16, 112, "MaxPool"),
    pooling(32, 56, "MaxPool"),
    pooling(32, 56, "MaxPool 3x3"),
    pooling(64, 56, "MaxPool"),
    pooling(64, 56, "MaxPool 3x3"),
    pooling(128, 28, "MaxPool"),
    pooling(32, 56, "AveragePool"),
    pooling(128, 28, "GlobalAveragePool"),
    pooling(64, 28, "MaxPool", dtype="float16"),
    pointwise(256, 128, 56, "AveragePool"),
    pointwise(1024, 512, 14, "AveragePool"),
    pointwise(128, 16, 28, "AveragePool"),
    pointwise(256, 4, 28, "AveragePool"),
    pointwise(32, 128, 28, "AveragePool"),
    pointwise(64, 64, 56, "AveragePool 3x3"),
    pointwise(256, 64, 28, "AveragePool 3x3"),
    pointwise(512, 256, 14, "GlobalAveragePool"),
    pointwise(256, 128, 28, "AveragePool", dtype="float16"),
)


def sessions(case: Case, ep: str, threads: int) -> dict[str, Any]:
    """One session for each variant, with spinning off: idle pools would otherwise take the processor."""
    config = dict.fromkeys(SPINNING, "0")
    opened = {name: common.session(case.model(name), ep=ep, threads=threads, config=config) for name in case.variants}
    for session in opened.values():
        if session.get_providers()[0] != PROVIDERS[ep]:
            raise SystemExit(f"ONNX Runtime cannot use {PROVIDERS[ep]} here")
    return opened


def rounds(opened: Mapping[str, Any], feed: np.ndarray, wanted: int, clock: common.Clock) -> list[dict[str, float]]:
    """Seconds of one run of each variant, ``wanted`` times, in blocks whose order changes."""
    jobs = {name: partial(session.run, None, {"x": feed}) for name, session in opened.items()}
    common.in_turns(jobs, 4)
    block = {name: max(1, round(BLOCK_SECONDS / common.seconds_of(job, 3, clock))) for name, job in jobs.items()}
    times = common.in_turns(jobs, wanted, warm_up=0, runs=block, clock=clock)
    return [dict(zip(times, turn, strict=True)) for turn in zip(*times.values(), strict=True)]


def measure(case: Case, ep: str, threads: int, wanted: int) -> dict[str, Any]:
    """A case's figures: microseconds of the bare graph and of what the norm adds, ratios by operation.

    ``cost`` is in units of the norm, or of what stands for it in its place; ``whole`` the time of the whole graph over
    that of the graph with it.
    """
    feed = np.random.default_rng(1).normal(0, 1, shape_of(case)).astype(case.about["dtype"])
    # With one thread on the processor, the time of the process leaves out what others take.
    clock = time.process_time if ep == "cpu" and threads == 1 else time.perf_counter
    turns = rounds(sessions(case, ep, threads), feed, wanted, clock)
    taken = sorted(turns, key=lambda turn: sum(turn.values()))
    taken = taken[: max(1, int(len(taken) * QUIET))]
    bare = statistics.median(turn[BARE] for turn in taken)
    added = {name: statistics.median(turn[name] - turn[BARE] for turn in taken) for name in case.variants}
    unit = case.unit
    least = at_least([turn[unit] - turn[BARE] for turn in taken])
    whole = {name: statistics.median(turn[name] / turn[unit] for turn in taken) for name in case.variants}
    operations = [name for name in case.variants if name not in (BARE, unit)]
    return {
        "place": case.place,
        **case.about,
        "bare_us": round(bare * 1e6, 1),
        "norm_us": round(added[unit] * 1e6, 1),
        "cost": {name: round(max(0.0, added[name]) / added[unit], 2) for name in operations} if least > 0 else None,
        "whole": {name: round(whole[name], 3) for name in operations},
    }


def at_least(differences: Sequence[float]) -> float:
    """Lower end of the interval of order statistics around the median."""
    ordered = sorted(differences)
    return ordered[max(0, int(len(ordered) / 2 - SURE * len(ordered) ** 0.5 / 2))]


def shape_of(case: Case) -> list[int]:
    """Shape of the input, which is that of the value at the norm."""
    shape: list[int] = case.about["value"]
    return shape


def entries(measured: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """``PLACE/OPERATION`` to its cost, the median over the cases in which the norm's own cost can be seen."""
    costs: dict[str, list[float]] = {}
    for case in measured:
        costs.setdefault(f"{case['place']}/{LAST if case['place'] == 'pointwise' else NORM}", [1.0])
        for name, cost in (case["cost"] or {}).items():
            costs.setdefault(f"{case['place']}/{name}", []).append(cost)
    return {name: round(statistics.median(found), 2) for name, found in costs.items()}


def table(measured: Sequence[Mapping[str, Any]], options: argparse.Namespace) -> dict[str, Any]:
    """The document that the package ships: nothing in it tells when it was made."""
    found = environment()
    packages = {name: found["packages"][name] for name in ("onnxruntime", "onnx")}
    return {
        "schema": "normfold-costs/1",
        "provider": options.ep,
        "unit": f"what a {NORM} in the same place adds to the time of a graph",
        "entries": entries(measured),
        "environment": {
            "processor": found["processor"],
            "cpu_features": found["cpu_features"],
            "system": platform.system(),
            **packages,
            "threads": options.threads,
            "rounds": options.rounds,
        },
        "cases": list(measured),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser_ = argparse.ArgumentParser(description="Measure what inserted operations cost beside a norm.")
    parser_.add_argument("--ep", choices=EPS, default="cpu", help="(default: %(default)s)")
    parser_.add_argument("--threads", type=int, default=1, help="of one session (default: %(default)s)")
    parser_.add_argument("--rounds", type=int, default=400, help="turns of each variant (default: %(default)s)")
    parser_.add_argument("--json", type=Path, metavar="FILE", help="where to write, instead of the package's own table")
    parser_.add_argument("--place", choices=sorted({case.place for case in CASES}), help="(default: all)")
    options = parser_.parse_args(arguments)
    measured, target = [], TABLES / f"{options.ep}.json"
    if options.place is not None:
        measured = [case for case in json.loads(target.read_text("utf-8"))["cases"] if case["place"] != options.place]
    for case in CASES:
        if options.place in (None, case.place):
            measured.append(measure(case, options.ep, options.threads, options.rounds))
            print(json.dumps(measured[-1]), file=sys.stderr, flush=True)
    target = options.json or target
    common.write_json(target, table(measured, options))
    for name, cost in entries(measured).items():
        print(f"{name:24} {cost:6.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
