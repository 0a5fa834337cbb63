"""Wall time and memory of whole commands: ``normfold fold`` against onnxsim and OnnxSlim, or against an earlier one.

Every command is a fresh process on the same file, with its own defaults. Rounds are interleaved, so that a
slow minute of the machine hits all of them, and ratios are taken within a round before their median.
Memory is sampled: *peak* is resident memory with mapped files, *anonymous* what was allocated, both of the command and
its children together; *largest* is the peak of the largest of these processes.

    python benchmarks/zoo.py --only resnet50 --only mobileone_s0
    python benchmarks/fold_speed.py --json out/fold_speed.json
    python benchmarks/fold_speed.py --big-only --blocks 4     # a quarter of the 4 GiB model
    python benchmarks/fold_speed.py --against ../earlier      # a checkout of another commit, in the same environment

The big model is a stack of 1x1 convolutions with BN and 256 MiB of weights each, in one external data file.
Its yardstick is copying its two files in the same round.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import common
import peers

CHANNELS: Final = 8192
BLOCKS: Final = 16
SAMPLE_SECONDS: Final = 0.01
MIB: Final = 1 << 20
EARLIER: Final = "earlier"
HERE: Final = Path(__file__).resolve().parents[1]
MEMORY_PART: Final = 0.6
"""Part of the machine's memory that a command may allocate before it is stopped."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of one command; times in seconds, memory in MiB."""

    command: str
    round: int
    seconds: float
    peak_mib: float
    anonymous_mib: float
    largest_mib: float
    status: str


@dataclass(frozen=True, slots=True)
class Command:
    """A command under test: its name in the tables, and the arguments for a source and a target."""

    name: str
    arguments: Callable[[Path, Path], list[str]]
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables besides those of this process."""


def module(*words: str) -> list[str]:
    """Command line of a Python module in this environment."""
    return [sys.executable, "-m", *words]


FOLD: Final = Command("normfold", lambda a, b: [*module("normfold", "fold"), str(a), "-o", str(b)])
FOLD_ONLY: Final = Command(
    "normfold --no-verify", lambda a, b: [*module("normfold", "fold"), str(a), "-o", str(b), "--no-verify"]
)
ONNXSIM: Final = Command("onnxsim", lambda a, b: [*module("onnxsim"), str(a), str(b)])
ONNXSIM_BIG: Final = Command("onnxsim", lambda a, b: [*module("onnxsim"), str(a), str(b), "--save-as-external-data"])
ONNXSLIM: Final = Command("onnxslim", lambda a, b: [*module("onnxslim"), str(a), str(b)])
ONNXSLIM_BIG: Final = Command("onnxslim", lambda a, b: [*module("onnxslim"), str(a), str(b), "--save-as-external-data"])
COPY: Final = Command("cp", lambda a, b: ["cp", "--reflink=never", *map(str, model_files(a)), str(b.parent)])
SMALL: Final = (FOLD, FOLD_ONLY, ONNXSIM, ONNXSLIM)
BIG: Final = (COPY, FOLD_ONLY, FOLD, ONNXSIM_BIG, ONNXSLIM_BIG)


def model_files(model: Path) -> list[Path]:
    """The model file and its external data beside it."""
    return [model, *model.parent.glob(f"{model.name}.data")]


def memory_of(pid: int) -> tuple[float, float, float]:
    """Resident and anonymous memory of a process and its children, and resident memory of the largest, in MiB.

    Zero where it has just ended.
    """
    resident = anonymous = largest = 0
    for process in family_of(pid):
        try:
            lines = Path(f"/proc/{process}/status").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            continue
        fields = dict(line.split(":", 1) for line in lines if ":" in line)
        own = int(fields.get("VmRSS", "0 kB").split()[0])
        resident, largest = resident + own, max(largest, own)
        anonymous += int(fields.get("RssAnon", "0 kB").split()[0])
    return resident / 1024, anonymous / 1024, largest / 1024


def family_of(pid: int) -> list[int]:
    """The process and its descendants."""
    family, waiting = [], [pid]
    while waiting:
        process = waiting.pop()
        family.append(process)
        # It may end at any moment, between two steps of the listing, too.
        with suppress(FileNotFoundError, ProcessLookupError):
            for listing in Path(f"/proc/{process}/task").glob("*/children"):
                waiting.extend(map(int, listing.read_text().split()))
    return family


def run(command: Command, source: Path, place: int, limit: float) -> Sample:
    """Run one command into an empty folder beside the source and watch its memory."""
    with tempfile.TemporaryDirectory(prefix="fold_speed_", dir=source.parent) as folder:
        arguments = command.arguments(source, Path(folder) / "out.onnx")
        started = time.perf_counter()
        process = subprocess.Popen(
            arguments,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**common.one_thread(), **command.environment},
        )
        peaks, stopped = watch(process, started + limit)
        seconds = time.perf_counter() - started
        status = stopped or ("done" if process.returncode == 0 else f"exit {process.returncode}")
        return Sample(command.name, place, round(seconds, 3), *(round(peak, 1) for peak in peaks), status)


def watch(process: subprocess.Popen[bytes], deadline: float) -> tuple[tuple[float, float, float], str]:
    """Wait for ``process``; return the peaks of what `memory_of` says, and why it was stopped, if it was."""
    peaks = 0.0, 0.0, 0.0
    ceiling = MEMORY_PART * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / MIB
    while process.poll() is None:
        now = memory_of(process.pid)
        peaks = max(peaks[0], now[0]), max(peaks[1], now[1]), max(peaks[2], now[2])
        late, greedy = time.perf_counter() > deadline, now[1] > ceiling
        if late or greedy:
            process.kill()
            process.wait()
            return peaks, "timeout" if late else "out of memory"
        time.sleep(SAMPLE_SECONDS)
    return peaks, ""


def compare(source: Path, commands: Sequence[Command], rounds: int, limit: float) -> list[Sample]:
    """Run the commands in turn, ``rounds`` times; one that failed once is not run again."""
    samples: list[Sample] = []
    failed: set[str] = set()
    for place in range(rounds):
        for command in commands if place % 2 == 0 else reversed(commands):
            if command.name in failed:
                continue
            sample = run(command, source, place, limit)
            samples.append(sample)
            if sample.status != "done":
                failed.add(command.name)
            print(
                f"{source.stem} {place + 1}/{rounds} {sample.command}: {sample.seconds:.2f} s, "
                f"{sample.anonymous_mib:.0f} MiB, {sample.status}",
                file=sys.stderr,
                flush=True,
            )
    return samples


def checkout(root: Path, name: str, *options: str) -> Command:
    """``normfold fold`` of the sources under ``root``, with the packages of this environment."""
    sources = root.resolve() / "src"
    if not (sources / "normfold").is_dir():
        raise SystemExit(f"{sources} holds no normfold")
    # Compiling all modules at each start is nothing that a user waits for.
    environment = {"PYTHONPATH": str(sources), "PYTHONDONTWRITEBYTECODE": ""}
    return Command(name, lambda a, b: [*module("normfold", "fold"), str(a), "-o", str(b), *options], environment)


def against(root: Path, source: Path, rounds: int, limit: float) -> dict[str, list[Sample]]:
    """Runs of this checkout and of that under ``root`` by title, with and without the comparison of the result."""
    found = {}
    for options in ((), ("--no-verify",)):
        pair = checkout(root, EARLIER, *options), checkout(HERE, FOLD.name, *options)
        # The first round reads the file and writes the modules' bytecode.
        compare(source, pair, 1, limit)
        found[" ".join((source.stem, *options))] = compare(source, pair, rounds, limit)
    return found


def commit(root: Path) -> str:
    """What is checked out under ``root``."""
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=7"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def summary(samples: Sequence[Sample], yardstick: str) -> dict[str, dict[str, Any]]:
    """Medians by command, and medians over rounds of its time and memory over the yardstick's in the same round."""
    done = [sample for sample in samples if sample.status == "done"]
    base = {sample.round: sample for sample in done if sample.command == yardstick}
    figures: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(sample.command for sample in samples):
        mine = [sample for sample in samples if sample.command == name]
        paired = [(sample, base[sample.round]) for sample in done if sample.command == name and sample.round in base]
        figures[name] = {
            "status": mine[-1].status,
            "rounds": len(mine),
            "seconds": statistics.median(sample.seconds for sample in mine),
            "ratio": ratio(paired, "seconds"),
            "peak_mib": statistics.median(sample.peak_mib for sample in mine),
            "anonymous_mib": statistics.median(sample.anonymous_mib for sample in mine),
            "largest_mib": statistics.median(sample.largest_mib for sample in mine),
            "peak_ratio": ratio(paired, "peak_mib"),
            "anonymous_ratio": ratio(paired, "anonymous_mib"),
            "largest_ratio": ratio(paired, "largest_mib"),
        }
    return figures


def ratio(paired: Sequence[tuple[Sample, Sample]], figure: str) -> float | None:
    """Median over rounds of a figure over the yardstick's; None where there are none."""
    if not paired or not all(getattr(base, figure) for _, base in paired):
        return None
    mine, theirs = zip(*((getattr(sample, figure), getattr(base, figure)) for sample, base in paired), strict=True)
    return round(common.median_ratio(mine, theirs), 3)


def make_big(path: Path, blocks: int, channels: int) -> None:
    """Write a stack of Conv 1x1 + BN + Relu, its weights streamed into one external data file.

    A complete pair of files of the same size is kept.
    """
    import numpy as np
    import onnx
    from onnx import TensorProto, helper

    data = path.with_name(f"{path.name}.data")
    size = channels * channels * 4
    if path.is_file() and data.is_file() and data.stat().st_size == blocks * size:
        return
    generator = np.random.default_rng(3)
    nodes: list[onnx.NodeProto] = []
    tensors: list[onnx.TensorProto] = []
    value = "x"
    with data.open("wb") as stream:
        for block in range(blocks):
            weight = generator.standard_normal((channels, channels), np.float32) / np.float32(channels**0.5)
            weight.tofile(stream)
            tensors.append(external_tensor(f"w{block}", (channels, channels, 1, 1), data.name, block * size, size))
            statistics_of = {
                "scale": generator.uniform(0.5, 1.5, channels),
                "bias": generator.normal(0.0, 0.2, channels),
                "mean": generator.normal(0.0, 0.2, channels),
                "var": generator.uniform(0.5, 1.5, channels),
            }
            tensors += [
                onnx.numpy_helper.from_array(v.astype(np.float32), f"{key}{block}") for key, v in statistics_of.items()
            ]
            names = [f"{key}{block}" for key in statistics_of]
            nodes += [
                helper.make_node("Conv", [value, f"w{block}"], [f"c{block}"], f"conv{block}", kernel_shape=[1, 1]),
                helper.make_node("BatchNormalization", [f"c{block}", *names], [f"n{block}"], f"norm{block}"),
                helper.make_node("Relu", [f"n{block}"], [f"r{block}"], f"relu{block}"),
            ]
            value = f"r{block}"
    shape = [1, channels, 1, 1]
    graph = helper.make_graph(
        nodes,
        "big",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, shape)],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())


def external_tensor(name: str, shape: tuple[int, ...], location: str, offset: int, length: int) -> Any:
    """Return a float32 initializer whose data stands at ``offset`` of the file ``location``."""
    from onnx import TensorProto

    tensor = TensorProto(name=name, dims=shape, data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)
    return tensor


def show(model: str, figures: dict[str, dict[str, Any]], yardstick: str) -> None:
    """Print the table of one model."""
    heads = ("command", "time", "x", "peak", "x", "anon.", "x", "largest", "x", "status")
    rows = (
        (
            name,
            f"{row['seconds']:.2f}",
            times(row["ratio"]),
            f"{row['peak_mib']:.0f}",
            times(row["peak_ratio"]),
            f"{row['anonymous_mib']:.0f}",
            times(row["anonymous_ratio"]),
            f"{row['largest_mib']:.0f}",
            times(row["largest_ratio"]),
            row["status"],
        )
        for name, row in figures.items()
    )
    common.show_table(f"{model}: seconds and MiB; x: over {yardstick}", heads, rows, left=("status",))


def times(ratio: float | None) -> str:
    """A ratio as a cell."""
    return "-" if ratio is None else f"{ratio:.2f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; exits 1 when a normfold command fails."""
    parser = argparse.ArgumentParser(description="Compare the speed of whole fold commands.")
    parser.add_argument("--zoo", type=Path, default=Path("out/zoo"), help="folder of the zoo (default: %(default)s)")
    parser.add_argument("--model", action="append", default=[], help="zoo models (resnet50 and mobileone_s0)")
    parser.add_argument("--big", type=Path, default=Path("out/big/big.onnx"), help="where the big model is made")
    parser.add_argument("--blocks", type=int, default=BLOCKS, help="256 MiB blocks of the big model, 0: leave it out")
    parser.add_argument("--keep-big", action="store_true", help="do not delete the big model afterwards")
    parser.add_argument("--big-only", action="store_true", help="leave the zoo models out")
    parser.add_argument("--rounds", type=int, default=5, help="rounds on zoo models (default: %(default)s)")
    parser.add_argument("--big-rounds", type=int, default=3, help="rounds on the big model (default: %(default)s)")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds for one command (default: %(default)s)")
    parser.add_argument(
        "--against",
        type=Path,
        metavar="CHECKOUT",
        help="compare with the normfold of another checkout instead of other tools, on the zoo's models",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as JSON")
    options = parser.parse_args(arguments)
    samples: dict[str, list[Sample]] = {}
    figures: dict[str, dict[str, dict[str, Any]]] = {}
    names = [] if options.big_only else options.model or ["resnet50", "mobileone_s0"]
    for name in names:
        source = options.zoo / f"{name}.onnx"
        if options.against is None:
            found, yardstick = {name: compare(source, SMALL, options.rounds, options.limit)}, FOLD.name
        else:
            found, yardstick = against(options.against, source, options.rounds, options.limit), EARLIER
        samples |= found
        for title, runs in found.items():
            figures[title] = summary(runs, yardstick)
            show(title, figures[title], yardstick)
    if options.blocks and options.against is None:
        options.big.parent.mkdir(parents=True, exist_ok=True)
        make_big(options.big, options.blocks, CHANNELS)
        title = f"big ({options.blocks * CHANNELS * CHANNELS * 4 // MIB} MiB)"
        samples[title] = compare(options.big, BIG, options.big_rounds, options.limit)
        figures[title] = summary(samples[title], COPY.name)
        show(title, figures[title], COPY.name)
        if not options.keep_big:
            for leftover in model_files(options.big):
                leftover.unlink()
    if options.json is not None:
        document = {
            "benchmark": "fold_speed",
            "versions": peers.versions(),
            "cpus": os.cpu_count(),
            "against": None if options.against is None else commit(options.against),
            "summary": figures,
            "samples": {name: [asdict(sample) for sample in rows] for name, rows in samples.items()},
        }
        common.write_json(options.json, document)
    mine = [row for table in figures.values() for name, row in table.items() if name.startswith(FOLD.name)]
    return 0 if all(row["status"] == "done" for row in mine) else 1


if __name__ == "__main__":
    sys.exit(main())
