"""Which integer kernels an execution provider has, and what they cost beside floating point: a table for the quantiser.

    python benchmarks/integer_kernels.py                # writes the CPU's table into the package

Every case is one operation in several forms. ``float`` is what a network runs before it is quantised. The others begin
and end in 8-bit codes: ``qdq`` is the same operation between DequantizeLinear and QuantizeLinear, to be fused by ONNX
Runtime or not; ``island`` is that same graph with the fusion turned off, which is what an operation costs that stays
in floating point between codes; and every further form is an operator on codes, standard or of ONNX Runtime's own. An
entry is the time of a form over that of ``float``, the median of ratios within rounds; a form that ONNX Runtime rejects
has none, and says why. ``operators`` lists what ONNX Runtime really ran.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import common
import numpy as np
from onnx import numpy_helper, parser

from normfold.passes.quantize import kernels
from normfold.report.environment import environment
from normfold.runtime.profile import node_times
from normfold.runtime.providers import PROVIDERS
from normfold.runtime.session_profile import SPINNING

TABLES: Final = Path(kernels.__file__).parent
FLOAT: Final = "float"
QDQ: Final = "qdq"
ISLAND: Final = "island"
"""The graph of ``qdq``, which ONNX Runtime may not fuse."""
FUSE_NOT: Final = {"session.disable_quant_qdq": "1"}
BLOCK_SECONDS: Final = 0.004
QUIET: Final = 0.25
"""Part of the rounds that counts: in the others something else was busy on the machine."""
MICROSOFT: Final = "com.microsoft"


@dataclass(frozen=True)
class Case:
    """One operation; ``forms`` are its graphs as ONNX text from ``x`` to ``y``, with the shape of ``x`` in each."""

    operator: str
    about: str
    shape: tuple[int, ...]
    constants: Mapping[str, np.ndarray]
    forms: Mapping[str, str]
    last: tuple[str, ...] = ()
    """Forms whose channels are the last axis."""
    signed: tuple[str, ...] = ()
    """Forms on signed codes."""
    result: Mapping[str, str] = field(default_factory=dict)
    """Type of ``y`` where it is not that of ``x``."""
    takes: Mapping[str, str] = field(default_factory=dict)
    """Type of ``x`` where it is not codes."""

    @property
    def all_forms(self) -> tuple[str, ...]:
        """Their names, the island's included."""
        return (*self.forms, *((ISLAND,) if QDQ in self.forms else ()))

    def kind(self, form: str) -> str:
        """Type of the codes, or of the values."""
        return self.takes.get(form, "float" if form == FLOAT else "int8" if form in self.signed else "uint8")

    def feed(self, form: str) -> np.ndarray:
        """Values or codes."""
        shape = self.shape
        if form in self.last:
            shape = (shape[0], *shape[2:], shape[1])
        generator = np.random.default_rng(1)
        if self.kind(form) == "float":
            return generator.normal(0, 1, shape).astype(np.float32)
        codes = generator.integers(0, 256, shape)
        return (codes - 128).astype(np.int8) if form in self.signed else codes.astype(np.uint8)

    def model(self, form: str) -> bytes:
        """The model of one form, with the constants that it reads."""
        kind = self.kind(form)
        shape = ", ".join(map(str, self.feed(form).shape))
        free = ", ".join("NMPQ"[: len(self.shape)])
        y = self.result.get(form, kind)
        head = (
            f'<ir_version: 8, opset_import: ["" : 17, "{MICROSOFT}" : 1]> case ({kind}[{shape}] x) => ({y}[{free}] y)'
        )
        proto = parser.parse_model(f"{head} {{ {self.forms[QDQ if form == ISLAND else form]} }}")
        read = {name for node in proto.graph.node for name in node.input}
        proto.graph.initializer.extend(
            numpy_helper.from_array(value, name) for name, value in self.constants.items() if name in read
        )
        return bytes(proto.SerializeToString())


def codes_of(**shapes: Sequence[int]) -> dict[str, np.ndarray]:
    """Scales and zero points, and for each name a weight: ``w`` in float32, ``wq`` signed, ``wu`` unsigned codes."""
    generator = np.random.default_rng(5)
    held = {
        "s": np.array(0.04, np.float32),
        "z": np.array(128, np.uint8),
        "zs": np.array(0, np.int8),
        "unit": np.array(1 / 256, np.float32),
        "first": np.array(0, np.uint8),
    }
    for name, shape in shapes.items():
        channels = shape[0] if len(shape) > 2 else shape[-1]
        weight = generator.integers(-127, 128, shape).astype(np.int8)
        held |= {
            f"{name}q": weight,
            f"{name}u": (weight.astype(np.int16) + 128).astype(np.uint8),
            f"{name}": weight.astype(np.float32) / np.float32(127 * np.sqrt(np.prod(shape) / channels)),
            f"{name}s": np.full(channels, 0.002, np.float32),
            f"{name}z": np.zeros(channels, np.int8),
            f"{name}uz": np.full(channels, 128, np.uint8),
            f"{name}b": generator.normal(0, 0.1, channels).astype(np.float32),
            f"{name}bq": generator.integers(-99, 99, channels).astype(np.int32),
            f"{name}bs": np.full(channels, 0.04 * 0.002, np.float32),
        }
    return held


def wrapped(call: str) -> str:
    """``call``, which makes a value of ``d``, between DequantizeLinear and QuantizeLinear."""
    return f"d = DequantizeLinear(x, s, z) c = {call} y = QuantizeLinear(c, s, z)"


def convolution(about: str, channels: int, side: int, kernel: int, group: int = 1, batch: int = 2) -> Case:
    """Three convolutions in a row, so that what comes in and goes out counts little."""
    pad = kernel // 2
    held = codes_of(w=(channels, channels // group, kernel, kernel))
    rest = f"kernel_shape = [{kernel}, {kernel}], pads = [{pad}, {pad}, {pad}, {pad}], group = {group}"

    def chain(call: str) -> str:
        names = ("x", "h1", "h2", "y")
        return " ".join(f"{b} = {call.format(a)}" for a, b in itertools.pairwise(names))

    dense = f"QLinearConv <{rest}> ({{}}, s, z, wq, ws, wz, s, z, wbq)"
    own = f"{MICROSOFT}.QLinearConv <{rest}, channels_last = 1> ({{}}, s, z, wq, ws, wz, s, z, wbq)"
    unsigned = own.replace("wq", "wu").replace("wz", "wuz")
    weight = "v = DequantizeLinear <axis = 0> (wq, ws, wz) b = DequantizeLinear <axis = 0> (wbq, wbs)"
    steps = " ".join(
        f"d{i} = DequantizeLinear({a}, s, z) c{i} = Conv <{rest}> (d{i}, v, b) {b} = QuantizeLinear(c{i}, s, z)"
        for i, (a, b) in enumerate((("x", "h1"), ("h1", "h2"), ("h2", "y")))
    )
    forms = {
        FLOAT: chain(f"Conv <{rest}> ({{}}, w, wb)"),
        QDQ: f"{weight} {steps}",
        "channels-last": chain(own),
        "channels-first": chain(dense),
        "signed activations": chain(own.replace("z, wq", "zs, wq").replace("s, z, wbq", "s, zs, wbq")),
        "unsigned weights": chain(unsigned),
    }
    last = ("channels-last", "signed activations", "unsigned weights")
    return Case("Conv", about, (batch, channels, side, side), held, forms, last, ("signed activations",))


def product(rows: int, inner: int, outer: int) -> Case:
    """A product of tokens with a constant matrix, and its bias."""
    held = codes_of(w=(inner, outer))
    held["c"] = held["wq"].T.reshape(outer, inner, 1, 1).copy()
    held |= {"rows": np.array([1, rows, 1, inner], np.int64), "back": np.array([1, rows, outer], np.int64)}
    held |= {"flat": np.array([rows, inner], np.int64), "wz0": np.array(0, np.int8)}
    held["a"] = np.array(0.04, np.float32)
    weight = "v = DequantizeLinear <axis = 1> (wq, ws, wz)"
    forms = {
        FLOAT: "h = MatMul(x, w) y = Add(h, wb)",
        QDQ: f"d = DequantizeLinear(x, s, z) {weight} h = MatMul(d, v) a0 = Add(h, wb) y = QuantizeLinear(a0, s, z)",
        "as convolution": (
            f"r = Reshape(x, rows) q = {MICROSOFT}.QLinearConv <channels_last = 1, kernel_shape = [1, 1]> "
            "(r, s, z, c, ws, wz, s, z, wbq) y = Reshape(q, back)"
        ),
        "QGemm": (f"r = Reshape(x, flat) q = {MICROSOFT}.QGemm(r, s, z, wq, ws, wz, wbq, s, z) y = Reshape(q, back)"),
        "QLinearMatMul": "y = QLinearMatMul(x, s, z, wq, ws, wz, s, z)",
        "to float": f"y = {MICROSOFT}.MatMulIntegerToFloat(x, wq, a, ws, z, wz, wb)",
    }
    return Case("MatMul", f"{rows} rows", (1, rows, inner), held, forms, result={"to float": "float"})


def attention(heads: int, rows: int, width: int) -> Case:
    """A product of two values, as queries and keys."""
    held = codes_of()
    held |= {"a": np.array(0.04, np.float32)}
    t = "t = Transpose <perm = [0, 1, 3, 2]> (x)"
    forms = {
        FLOAT: f"{t} y = MatMul(x, t)",
        QDQ: "d = DequantizeLinear(x, s, z) u = Transpose <perm = [0, 1, 3, 2]> (x) e = DequantizeLinear(u, s, z) "
        "c = MatMul(d, e) y = QuantizeLinear(c, s, z)",
        "QLinearMatMul": f"{t} y = QLinearMatMul(x, s, z, t, s, z, s, z)",
        "to float": f"{t} y = {MICROSOFT}.MatMulIntegerToFloat(x, t, a, a, z, z)",
    }
    return Case("MatMul", "two values", (1, heads, rows, width), held, forms, result={"to float": "float"})


def pointwise(operator: str, call: str, forms: Mapping[str, str], *, shape: tuple[int, ...] = (4, 64, 28, 28)) -> Case:
    """An operation that the float form, and the one between quantisers, have in common; ``{}`` is what it reads."""
    held = codes_of(w=(4, 4))
    channels = shape[1]
    held |= {
        "lowest": np.full((1, channels, 1, 1), -1.0, np.float32),
        "lowq": np.full((1, 1, 1, channels), 103, np.uint8),
        "nolow": np.array(-1.0, np.float32),
        "high": np.array(1.0, np.float32),
        "nolowq": np.array(103, np.uint8),
        "highq": np.array(153, np.uint8),
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64),
        "twice": np.array([1, 1, 2, 2], np.float32),
        "middle": np.array([1, 1], np.int64),
        "ends": np.array([27, 27], np.int64),
        "axes": np.array([2, 3], np.int64),
        "pairs": np.repeat(np.arange(shape[2]), 2),
        "flat": np.array([shape[0], -1], np.int64),
        "widths": np.ones(shape[-1], np.float32),
    }
    both = {FLOAT: f"y = {call.format('x', 'x')}", QDQ: wrapped(call.format("d", "d"))}
    last = tuple(name for name, text in forms.items() if name == "channels-last" or " lowq" in text)
    return Case(operator, "", shape, held, both | dict(forms), last)


POOL: Final = "kernel_shape = [2, 2], strides = [2, 2]"
NEAREST: Final = 'mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"'
CASES: Final = (
    convolution("3x3", 64, 28, 3),
    convolution("1x1", 128, 28, 1),
    convolution("depthwise 3x3", 96, 28, 3, group=96, batch=4),
    convolution("depthwise 5x5", 96, 28, 5, group=96, batch=4),
    convolution("depthwise 7x7", 96, 28, 7, group=96, batch=4),
    convolution("3x3 in 4 groups", 64, 28, 3, group=4),
    product(1024, 128, 512),
    product(64, 384, 384),
    attention(8, 128, 32),
    pointwise("Add", "Add({}, {})", {"codes": f"y = {MICROSOFT}.QLinearAdd(x, s, z, x, s, z, s, z)"}),
    pointwise("Mul", "Mul({}, {})", {"codes": f"y = {MICROSOFT}.QLinearMul(x, s, z, x, s, z, s, z)"}),
    pointwise("Max", "Max({}, lowest)", {"codes": "y = Max(x, lowq)"}),
    pointwise("Clip", "Clip({}, nolow, high)", {"codes": "y = Clip(x, nolowq, highq)"}),
    pointwise("Relu", "Relu({})", {"codes": "y = Max(x, z)"}),
    pointwise("Sigmoid", "Sigmoid({})", {"codes": f"y = {MICROSOFT}.QLinearSigmoid(x, s, z, unit, first)"}),
    pointwise("LeakyRelu", "LeakyRelu({})", {"codes": f"y = {MICROSOFT}.QLinearLeakyRelu(x, s, z, s, z)"}),
    pointwise("HardSigmoid", "HardSigmoid({})", {}),
    pointwise("HardSwish", "HardSwish({})", {}),
    pointwise("Tanh", "Tanh({})", {}),
    pointwise(
        "Gelu",
        f"{MICROSOFT}.Gelu({{}})",
        {
            "codes": f"g = {MICROSOFT}.QLinearSigmoid(x, s, z, unit, first) "
            f"y = {MICROSOFT}.QLinearMul(x, s, z, g, unit, first, s, z)"
        },
    ),
    pointwise(
        "Softmax",
        "Softmax <axis = -1> ({})",
        {"codes": f"y = {MICROSOFT}.QLinearSoftmax <axis = -1, opset = 17> (x, s, z, unit, first)"},
        shape=(1, 8, 128, 128),
    ),
    pointwise(
        "MaxPool",
        f"MaxPool <{POOL}> ({{}})",
        {
            "codes": f"y = MaxPool <{POOL}> (x)",
            "channels-last": f"y = {MICROSOFT}.NhwcMaxPool <{POOL}> (x)",
        },
    ),
    pointwise(
        "AveragePool",
        f"AveragePool <{POOL}> ({{}})",
        {
            "codes": f"y = {MICROSOFT}.QLinearAveragePool <{POOL}> (x, s, z, s, z)",
            "channels-last": f"y = {MICROSOFT}.QLinearAveragePool <{POOL}, channels_last = 1> (x, s, z, s, z)",
        },
    ),
    pointwise(
        "GlobalAveragePool",
        "GlobalAveragePool({})",
        {
            "codes": f"y = {MICROSOFT}.QLinearGlobalAveragePool <channels_last = 0> (x, s, z, s, z)",
            "channels-last": f"y = {MICROSOFT}.QLinearGlobalAveragePool <channels_last = 1> (x, s, z, s, z)",
        },
    ),
    pointwise(
        "ReduceMean",
        "ReduceMean <axes = [2, 3]> ({})",
        {"codes": f"y = {MICROSOFT}.QLinearReduceMean <axes = [2, 3]> (x, s, z, s, z)"},
    ),
    pointwise(
        "Concat",
        "Concat <axis = 1> ({}, {})",
        {
            "codes": "y = Concat <axis = 1> (x, x)",
            "channels-last": "y = Concat <axis = 3> (x, x)",
            "requantised": f"y = {MICROSOFT}.QLinearConcat <axis = 1> (s, z, x, s, z, x, s, z)",
        },
    ),
    pointwise(
        "Transpose", "Transpose <perm = [0, 2, 3, 1]> ({})", {"codes": "y = Transpose <perm = [0, 2, 3, 1]> (x)"}
    ),
    pointwise("Reshape", "Reshape({}, flat)", {"codes": "y = Reshape(x, flat)"}),
    pointwise("Slice", "Slice({}, middle, ends, axes)", {"codes": "y = Slice(x, middle, ends, axes)"}),
    pointwise("Pad", "Pad({}, pads)", {"codes": "y = Pad(x, pads, z)"}),
    pointwise(
        "Resize",
        f"Resize <{NEAREST}> ({{}}, , twice)",
        {
            "codes": f"y = Resize <{NEAREST}> (x, , twice)",
            "channels-last": "r = Gather <axis = 1> (x, pairs) y = Gather <axis = 2> (r, pairs)",
        },
    ),
    pointwise(
        "LayerNormalization",
        "LayerNormalization <axis = -1> ({}, widths)",
        {},
        shape=(1, 4, 128, 384),
    ),
    Case(
        "QuantizeLinear",
        "over Relu",
        (4, 64, 28, 28),
        codes_of(),
        {FLOAT: "y = Relu(x)", "to codes": "y = QuantizeLinear(x, s, z)"},
        takes={"to codes": "float"},
        result={"to codes": "uint8"},
    ),
    Case(
        "DequantizeLinear",
        "over Relu",
        (4, 64, 28, 28),
        codes_of(),
        {FLOAT: "y = Relu(x)", "to float": "y = DequantizeLinear(x, s, z)"},
        result={"to float": "float"},
    ),
)


@dataclass
class Forms:
    """The sessions of a case, and why others have none."""

    sessions: dict[str, Any]
    refused: dict[str, str]
    operators: dict[str, list[str]]


def opened(case: Case, ep: str, threads: int, folder: Path) -> Forms:
    """One session for each form; spinning is off, since idle pools would otherwise take the processor."""
    found = Forms({}, {}, {})
    for form in case.all_forms:
        model = case.model(form)
        config = dict.fromkeys(SPINNING, "0") | (FUSE_NOT if form == ISLAND else {})
        try:
            profiled = {"enable_profiling": True, "profile_file_prefix": str(folder / "profile")}
            looked = common.session(model, ep=ep, threads=threads, config=config, options=profiled)
            looked.run(None, {"x": case.feed(form)})
        except Exception as error:  # noqa: BLE001 - whatever ONNX Runtime says of it is the answer
            found.refused[form] = " ".join(str(error).split())[:200]
            continue
        rows = node_times(Path(looked.end_profiling()))["nodes"]
        found.operators[form] = sorted({operator for _name, operator, *_ in rows})
        found.sessions[form] = common.session(model, ep=ep, threads=threads, config=config)
        if found.sessions[form].get_providers()[0] != PROVIDERS[ep]:
            raise SystemExit(f"ONNX Runtime cannot use {PROVIDERS[ep]} here")
    return found


def measure(case: Case, ep: str, threads: int, rounds: int) -> list[dict[str, Any]]:
    """A row for each form of a case but ``float``."""
    with tempfile.TemporaryDirectory(prefix="kernels_") as folder:
        forms = opened(case, ep, threads, Path(folder))
    jobs = {form: partial(one.run, None, {"x": case.feed(form)}) for form, one in forms.sessions.items()}
    # With one thread on the processor, the time of the process leaves out what others take.
    clock = time.process_time if ep == "cpu" and threads == 1 else time.perf_counter
    common.in_turns(jobs, 3)
    block = {form: max(1, round(BLOCK_SECONDS / common.seconds_of(job, 3, clock))) for form, job in jobs.items()}
    times = common.in_turns(jobs, rounds, warm_up=0, runs=block, clock=clock)
    turns = sorted((dict(zip(times, turn, strict=True)) for turn in zip(*times.values(), strict=True)), key=_whole)
    turns = turns[: max(1, int(len(turns) * QUIET))]
    return [
        {
            "operator": case.operator,
            "about": case.about,
            "shape": list(case.shape),
            "form": form,
            "microseconds": _rounded([turn[form] * 1e6 for turn in turns], 1) if form in jobs else None,
            "cost": _rounded([turn[form] / turn[FLOAT] for turn in turns], 2) if form in jobs else None,
            "operators": forms.operators.get(form, []),
            "because": forms.refused.get(form, ""),
        }
        for form in case.all_forms
    ]


def _whole(turn: Mapping[str, float]) -> float:
    return sum(turn.values())


def _rounded(values: Sequence[float], digits: int) -> float:
    return round(statistics.median(values), digits)


def table(rows: Sequence[Mapping[str, Any]], options: argparse.Namespace) -> dict[str, Any]:
    """The document that the package ships: nothing in it tells when it was made."""
    found = environment()
    return {
        "schema": "normfold-kernels/1",
        "provider": options.ep,
        "unit": "time over that of the same operation in float32",
        "environment": {
            "processor": found["processor"],
            "cpu_features": found["cpu_features"],
            "system": platform.system(),
            "onnxruntime": found["packages"]["onnxruntime"],
            "threads": options.threads,
            "rounds": options.rounds,
        },
        "kernels": list(rows),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser_ = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser_.add_argument("--ep", default="cpu", choices=PROVIDERS, help="(default: %(default)s)")
    parser_.add_argument("--threads", type=int, default=1, help="of one session (default: %(default)s)")
    parser_.add_argument("--rounds", type=int, default=60, help="turns of each form (default: %(default)s)")
    parser_.add_argument("--operator", default="", help="measure these again, separated by commas (default: all)")
    parser_.add_argument("--json", type=Path, metavar="FILE", help="where to write, instead of the package's own table")
    options = parser_.parse_args(arguments)
    wanted = {name for name in options.operator.split(",") if name}
    target = TABLES / f"{options.ep}.json"
    rows: list[dict[str, Any]] = []
    if wanted:
        held = json.loads(target.read_text(encoding="utf-8"))["kernels"]
        rows = [row for row in held if row["operator"] not in wanted]
    for case in CASES:
        if not wanted or case.operator in wanted:
            rows += (found := measure(case, options.ep, options.threads, options.rounds))
            for row in found:
                cost = "-" if row["cost"] is None else f"{row['cost']:.2f}"
                words = row["because"] or " ".join(row["operators"])
                print(f"{row['operator']:20}{row['about']:18}{row['form']:20}{cost:>7}  {words[:90]}", flush=True)
    common.write_json(options.json or target, table(rows, options))
    return 0


if __name__ == "__main__":
    sys.exit(main())
