"""How fast and how good quantised networks are: normfold's, and those of every recipe it competes with.

    python benchmarks/quantize.py --garden path/to/garden --json out/quantize.json
    python benchmarks/quantize.py --zoo out/zoo --networks resnet50,vit_tiny_patch16_224 --json out/quantize-zoo.json

For each network one interleaved run (`normfold.measure`: fresh processes, blocks in random order, paired ratios) of
the source, of the source as normfold folds it, of the folded file quantised by every recipe of `quantizers.py`, and of
what ``normfold quantize`` makes of the source, with calibration data and without. Columns: how many times faster than
the source at each batch size, with the interval; what the metric loses, with the paired interval of the difference.

*Garden*: trained networks; calibrated on its training pictures, scored on its 5,000 test pictures. The loss is in
points of top-1; for the denoiser in hundredths of its mean squared error. *Zoo*: random weights, so the metric is the
signal-to-noise ratio of the outputs in decibels, on pictures that were not calibrated on.

*Best recipe*: the fastest of ``onnxruntime.quantization`` with unsigned activations whose loss is at most normfold's
and 0.2. Its ratio to normfold's result is of the same run. The exit is 1 where normfold's result is the slower one.

Networks already in the file of figures are not measured again; files in ``--results`` are not made again, nor scored
again. ``--prepare`` makes and scores them and times nothing, which may be done on a busy machine; what is left to
the run on a quiet one takes `--processes` times `--seconds` for each batch size, and a moment more.

    python benchmarks/quantize.py --prepare --options "--format contrib --unmeasured"
    python benchmarks/quantize.py --options "--format contrib --unmeasured" --json out/quantize.json
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import common
import garden_accuracy
import openvino_worker
import peers
import quantizers

from normfold.limits import limited
from normfold.measure import (
    Candidate,
    Cell,
    Conditions,
    Effort,
    Experiment,
    Interval,
    measure,
    open_candidate,
    statistics,
)
from normfold.measure.candidate import INT8
from normfold.models.data import UserInputs
from normfold.report.environment import environment
from normfold.runtime import Failed, Runnable, WorkerClient
from normfold.runtime.targets import LOCAL

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Doubles = NDArray[np.float64]

SOURCE: Final = "source"
FOLDED: Final = "folded"
OURS: Final = "normfold"
FREE: Final = "normfold-free"
"""What ``normfold quantize`` makes without data."""
NOT_ONNX: Final = ("openvino", "openvino-nncf")
CALIBRATION: Final = 512
MARGIN: Final = 0.2
"""Points that a recipe may lose more than normfold's result and still count."""
BATCH: Final = 100
"""Samples of a batch when outputs are scored."""
RTOL: Final = 1e3
"""Quality is scored on data of its own; the timing run only asks that there are outputs."""
SCORES: Final = "scores.json"
MEMORY: Final = 24 << 30
"""Address space of a process that holds all candidates: OpenVINO reserves more than it uses."""


Quality = tuple[float, Interval]
"""Mean of a metric, and what it lost."""


class Network(Protocol):
    """A network with its data."""

    name: str
    source: Path
    metric: str

    def calibration(self) -> dict[str, Floats]:
        """By input name, the first axis counts samples."""
        ...

    def test(self) -> dict[str, Floats]:
        """What the outputs are scored on."""
        ...

    def scores(self, outputs: Floats, reference: Floats) -> Doubles:
        """A figure for each sample, whose mean is the metric."""
        ...


@dataclass(frozen=True)
class Garden:
    """A trained network of the garden."""

    source: Path
    folder: Path
    count: int

    @property
    def name(self) -> str:
        """As its file is named."""
        return self.source.stem

    @property
    def metric(self) -> str:
        """The denoiser has no classes."""
        return "100 mse" if self.name == "denoiser" else "top-1"

    def calibration(self) -> dict[str, Floats]:
        """Pictures of the training set."""
        return {"x": self._fed(garden_accuracy.pictures(self.folder, CALIBRATION, "calibration")[0], 1)}

    def test(self) -> dict[str, Floats]:
        """Pictures of the test set."""
        return {"x": self._fed(self._pictures[0], 0)}

    def scores(self, outputs: Floats, _reference: Floats) -> Doubles:
        """100 for a picture that is put into its class, or hundredths of squared error."""
        import numpy as np

        pictures, labels = self._pictures
        if self.metric == "top-1":
            return 100.0 * (outputs.argmax(1) == labels)
        error = np.square(outputs - pictures, dtype=np.float64)
        return np.asarray(100.0 * error.reshape(len(error), -1).mean(1))

    @cached_property
    def _pictures(self) -> tuple[Floats, NDArray[np.int64]]:
        return garden_accuracy.pictures(self.folder, self.count)

    def _fed(self, pictures: Floats, seed: int) -> Floats:
        import numpy as np

        if self.metric == "top-1":
            return pictures
        noise = np.random.default_rng(seed).standard_normal(pictures.shape, np.float32)
        return pictures + noise * np.float32(garden_accuracy.NOISE)


@dataclass(frozen=True)
class Zoo:
    """A network of `zoo.py`: random weights, live statistics."""

    source: Path
    count: int

    metric = "SQNR"

    @property
    def name(self) -> str:
        """As its file is named."""
        return self.source.stem

    def calibration(self) -> dict[str, Floats]:
        """Random pictures at several scales."""
        return self._pictures(64, 1)

    def test(self) -> dict[str, Floats]:
        """Others."""
        return self._pictures(self.count, 2)

    def scores(self, outputs: Floats, reference: Floats) -> Doubles:
        """Decibels of the reference's outputs over the difference; the mean over samples of the noise counts."""
        import numpy as np

        signal = np.square(reference, dtype=np.float64).reshape(len(reference), -1).mean(1)
        noise = np.square(outputs - reference, dtype=np.float64).reshape(len(reference), -1).mean(1)
        return np.asarray(10.0 * np.log10(signal / np.maximum(noise, 1e-12 * signal)))

    def _pictures(self, count: int, seed: int) -> dict[str, Floats]:
        import onnx
        import torch
        import zoo

        (given,) = onnx.load_model(self.source, load_external_data=False).graph.input
        torch.manual_seed(seed)
        return {given.name: zoo.pictures(count, given.type.tensor_type.shape.dim[2].dim_value).numpy()}


@dataclass(frozen=True, slots=True)
class Line:
    """One file: milliseconds and times faster than the source by batch size, and its quality."""

    name: str
    megabytes: float | None = None
    milliseconds: Mapping[str, float] = field(default_factory=dict)
    faster: Mapping[str, Interval] = field(default_factory=dict)
    metric: float | None = None
    loss: Interval | None = None
    """Of the source's metric, with the paired interval; the session has all optimisations on."""
    loss_plain: Interval | None = None
    """The same with optimisations off."""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One network."""

    network: str
    metric: str
    lines: tuple[Line, ...]
    best: Mapping[str, str | None]
    """By batch size the fastest recipe that is as good."""
    to_best: Mapping[str, Interval]
    """By batch size how many times faster normfold's result is than that one."""
    verdict: Mapping[str, str]
    warnings: tuple[str, ...]
    load: float
    seconds: float

    def line(self, name: str) -> Line | None:
        """The line of that name."""
        return next((line for line in self.lines if line.name == name), None)


@dataclass(frozen=True, slots=True)
class Setting:
    """How every network is measured."""

    batches: tuple[int, ...]
    threads: int
    recipes: tuple[str, ...]
    processes: int
    seconds: float
    limit: float
    options: tuple[str, ...] = ()
    """Further options of ``normfold quantize``."""

    def effort(self) -> Effort:
        """As `bench` has it, in a given number of processes."""
        return Effort(
            first=self.processes,
            most=self.processes,
            per_process=self.seconds,
            time_limit=math.inf,
            copies=1,
            details=False,
        )


def made(network: Network, folder: Path, setting: Setting) -> tuple[dict[str, Path], dict[str, str]]:
    """Every file by the name of its recipe, made where it is missing, and notes on those that were not."""
    import numpy as np

    folder.mkdir(parents=True, exist_ok=True)
    files, notes = {SOURCE: network.source, FOLDED: folder / "folded.onnx"}, dict[str, str]()
    data = folder / "calibration.npz"
    if not data.is_file():
        np.savez(data, **network.calibration())
    if not files[FOLDED].is_file():
        peers.run(peers.NORMFOLD, network.source, files[FOLDED], setting.limit)
    names = (*setting.recipes, OURS, FREE)
    targets = {name: folder / f"{name}{_suffix(name)}" for name in names}
    missing = [name for name in names if not targets[name].is_file()]

    def make(name: str) -> peers.Run:
        run = _make(name, network.source, files[FOLDED], targets[name], setting)
        print(f"{network.name}: {name} {run.status}, {run.seconds:.0f} s", file=sys.stderr, flush=True)
        return run

    # Each has one thread.
    with ThreadPoolExecutor(setting.threads) as pool:
        for name, run in zip(missing, pool.map(make, missing), strict=True):
            if run.status != "done" or run.error:
                notes[name] = f"{run.status} {run.error}".strip()
    return files | {name: target for name, target in targets.items() if target.is_file()}, notes


def _suffix(name: str) -> str:
    return quantizers.RECIPES[name].suffix if name in quantizers.RECIPES else ".onnx"


def _make(name: str, source: Path, folded: Path, target: Path, setting: Setting) -> peers.Run:
    data = target.with_name("calibration.npz")
    if name in quantizers.RECIPES:
        return quantizers.run(name, folded, target, data, setting.limit)
    calibrated = ["--calibrate", str(data)] if name == OURS else []
    command = [sys.executable, "-m", "normfold", "quantize", str(source), "-o", str(target), *calibrated]
    return quantizers.in_process(name, [*command, "--force", *setting.options], target, setting.limit)


def outputs_of(file: Path, feeds: Mapping[str, Floats], threads: int, *, optimised: bool) -> Floats | str:
    """The first output for all samples, run in a worker; or why there is none."""
    import numpy as np

    if file.suffix == openvino_worker.SUFFIX:
        return openvino_outputs(file, feeds, threads)
    client = WorkerClient(time_limit=600.0, threads=threads)
    client.expect(None)
    try:
        loaded = client.load(Runnable(file, file.parent), optimised=optimised)
        if isinstance(loaded, Failed):
            return loaded.message
        parts = []
        for feed in batches(feeds, fixed_batch(file) or BATCH):
            ran = client.run(feed)
            if isinstance(ran, Failed):
                return ran.message
            parts.append(np.array(ran.outputs[loaded.outputs[0]]))
    finally:
        client.close()
        client.dispose()
    return np.concatenate(parts)


def openvino_outputs(file: Path, feeds: Mapping[str, Floats], threads: int) -> Floats:
    """The same for a file of OpenVINO's."""
    import numpy as np

    model = openvino_worker.compiled(file, threads)
    size = model.inputs[0].get_partial_shape()[0]
    length = BATCH if size.is_dynamic else size.get_length()
    return np.concatenate([np.array(model(feed)[0]) for feed in batches(feeds, length)])


def batches(feeds: Mapping[str, Floats], size: int) -> Iterator[dict[str, Floats]]:
    """``feeds`` in pieces of ``size`` samples."""
    for start in range(0, len(next(iter(feeds.values()))), size):
        yield {name: array[start : start + size] for name, array in feeds.items()}


def fixed_batch(file: Path) -> int:
    """The first dimension of the file's first input; 0 where it is free."""
    import onnx

    dims = onnx.load_model(file, load_external_data=False).graph.input[0].type.tensor_type.shape.dim
    return dims[0].dim_value if dims else 0


@dataclass(frozen=True)
class Judge:
    """Scores files of one network on its test data."""

    network: Network
    threads: int
    folder: Path
    """Where scores are kept."""

    @cached_property
    def feeds(self) -> dict[str, Floats]:
        """Test data."""
        return self.network.test()

    @cached_property
    def reference(self) -> Floats:
        """Outputs of the source."""
        found = outputs_of(self.network.source, self.feeds, self.threads, optimised=False)
        if isinstance(found, str):
            raise SystemExit(f"{self.network.source}: {found}")
        return found

    @cached_property
    def before(self) -> Doubles:
        """The source's figures."""
        return self.network.scores(self.reference, self.reference)

    def loss(self, file: Path, *, optimised: bool = True) -> Quality | str:
        """Mean of the metric, and what it lost against the source, with the paired interval; or why there is none."""
        digest = sha256(file.read_bytes() + self.network.source.read_bytes()).hexdigest()
        key = f"{digest} {len(next(iter(self.feeds.values())))} {optimised}"
        if key not in self._kept:
            found = self._scored(file, optimised=optimised)
            if isinstance(found, str):
                return found
            self._kept[key] = [found[0], found[1].value, found[1].low, found[1].high]
            common.write_json(self.folder / SCORES, self._kept)
        mean, *interval = self._kept[key]
        return mean, Interval(*interval)

    @cached_property
    def _kept(self) -> dict[str, list[float]]:
        """Scores by what they are of."""
        file = self.folder / SCORES
        found: dict[str, list[float]] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        return found

    def _scored(self, file: Path, *, optimised: bool) -> Quality | str:
        found = outputs_of(file, self.feeds, self.threads, optimised=optimised)
        if isinstance(found, str):
            return found
        after = self.network.scores(found, self.reference)
        if self.network.metric == "SQNR":
            mean = statistics.stein_interval(after.tolist(), len(after))
            return mean.value, Interval(-mean.value, -mean.high, -mean.low)
        sign = -1.0 if self.network.metric == "100 mse" else 1.0
        differences = sign * (self.before - after)
        return float(after.mean()), statistics.stein_interval(differences.tolist(), len(differences))


def candidates(files: Mapping[str, Path], stack: ExitStack) -> list[Candidate]:
    """Everything that is timed, the source first."""
    source = stack.enter_context(open_candidate(files[SOURCE], SOURCE))
    found = [source]
    for name, file in files.items():
        if file.suffix == openvino_worker.SUFFIX:
            found.append(Candidate(name, Runnable(file, file.parent), source.inputs, precision=INT8))
        elif name != SOURCE:
            found.append(stack.enter_context(open_candidate(file, name)))
    return found


def timed(network: Network, files: Mapping[str, Path], batch: int, setting: Setting) -> Cell:
    """One interleaved run at one batch size."""
    fixed = fixed_batch(network.source)
    arrays = {name: array[: fixed or batch] for name, array in network.calibration().items()}
    command = (sys.executable, openvino_worker.__file__)
    with limited(None, MEMORY), ExitStack() as stack:
        experiment = Experiment(
            tuple(candidates(files, stack)),
            Conditions(threads=setting.threads),
            setting.effort(),
            UserInputs(arrays=arrays),
            rtol=RTOL,
            target=replace(LOCAL, command=command),
        )
        cell = measure(experiment, lambda doing: print(f"  {doing}", file=sys.stderr, flush=True))
    if cell.refused is not None:
        raise cell.refused
    return cell


def scores(judge: Judge, files: Mapping[str, Path]) -> dict[str, Quality | str]:
    """What every file loses, printed as it is found; normfold's with optimisations off, too."""
    found: dict[str, Quality | str] = {}
    for name, file in files.items():
        found[name] = loss = judge.loss(file)
        if name in (OURS, FREE):
            judge.loss(file, optimised=False)
        said = loss if isinstance(loss, str) else f"{_number(loss[0])}, loss {_interval(loss[1])}"
        print(f"{judge.network.name}: {name}: {said}", file=sys.stderr, flush=True)
    return found


def prepare(network: Network, folder: Path, setting: Setting) -> None:
    """Everything but timing."""
    files, notes = made(network, folder, setting)
    for name, text in notes.items():
        print(f"{network.name}: {name}: {text}", file=sys.stderr, flush=True)
    scores(Judge(network, setting.threads, folder), files)


def row_of(network: Network, folder: Path, setting: Setting) -> Row:
    """All about one network."""
    load, started = os.getloadavg()[0], time.perf_counter()
    files, notes = made(network, folder, setting)
    judge = Judge(network, setting.threads, folder)
    quality = scores(judge, files)
    for name in [name for name, found in quality.items() if isinstance(found, str)]:
        notes[name] = str(quality.pop(name))
        files.pop(name)
    sizes = setting.batches if not fixed_batch(network.source) else (fixed_batch(network.source),)
    cells = {str(size): timed(network, files, size, setting) for size in sizes}
    lines = tuple(
        _line(name, files.get(name), cells, quality.get(name), notes.get(name, ""), judge)
        for name in (SOURCE, FOLDED, *setting.recipes, OURS, FREE)
    )
    best = {size: _best(cell, lines) for size, cell in cells.items()}
    against = {size: _compared(cells[size], name, OURS) for size, name in best.items() if name is not None}
    return Row(
        network.name,
        network.metric,
        lines,
        best,
        {size: _inverse(found.ratio) for size, found in against.items()},
        {size: found.verdict for size, found in against.items()},
        tuple(f"batch {size}: {text}" for size, cell in cells.items() for text in cell.warnings),
        load,
        round(time.perf_counter() - started, 1),
    )


def _line(
    name: str,
    file: Path | None,
    cells: Mapping[str, Cell],
    quality: Quality | str | None,
    note: str,
    judge: Judge,
) -> Line:
    if file is None or quality is None or isinstance(quality, str):
        return Line(name, note=note or "not made")
    plain = judge.loss(file, optimised=False) if name in (OURS, FREE) else None
    if file.suffix == openvino_worker.SUFFIX:
        note = f"{openvino_worker.precision_of(file)} {note}".strip()
    return Line(
        name,
        round(_bytes(file) / 1e6, 3),
        {size: round(cell.figure(name).latency.value / 1e6, 3) for size, cell in cells.items()},
        {size: _inverse(cell.comparisons[name].ratio) for size, cell in cells.items() if name != SOURCE},
        quality[0],
        quality[1],
        plain[1] if isinstance(plain, tuple) else None,
        note if not isinstance(plain, str) else f"{note} with optimisations off: {plain}",
    )


def _bytes(file: Path) -> int:
    return sum(one.stat().st_size for one in {file, file.with_suffix(".bin")} if one.is_file())


def _inverse(ratio: Interval) -> Interval:
    return Interval(1 / ratio.value, 1 / ratio.high, 1 / ratio.low)


def _best(cell: Cell, lines: Sequence[Line]) -> str | None:
    """The fastest of ``onnxruntime.quantization`` that loses hardly more than normfold's result."""
    found = {line.name: line.loss for line in lines if line.loss is not None}
    if OURS not in found:
        return None
    allowed = found[OURS].value + MARGIN
    good = [
        name
        for name, loss in found.items()
        if name in quantizers.RECIPES and quantizers.RECIPES[name].unsigned and loss.value <= allowed
    ]
    return min(good, key=lambda name: cell.comparisons[name].ratio.value, default=None)


def _compared(cell: Cell, reference: str, other: str) -> statistics.Comparison:
    """What the run says of two candidates, neither of which is the first."""
    logs = [statistics.log_ratio(sample.used(reference), sample.used(other)) for sample in cell.samples]
    control = None
    if cell.control is not None:
        bounds = (cell.control.value, cell.control.low, cell.control.high)
        control = Interval(*map(math.log, bounds))
    return statistics.judge(statistics.stein_interval(logs, len(logs)), control)


def show(row: Row) -> None:
    """Print a network's table."""
    sizes = list(row.best)
    print(f"\n{row.network} ({row.metric}), load {row.load:.1f}")
    batches_ = "".join(f"{f'ms, batch {size}':>15}{'x faster':>20}" for size in sizes)
    print(f"{'':15}{'MB':>8}{batches_}{row.metric:>10}{'loss':>24}{'loss, plain session':>24}")
    for line in row.lines:
        print(_text(line, sizes))
    for size, name in row.best.items():
        if name is not None:
            words = f"{_interval(row.to_best[size])}, {row.verdict[size]}"
            print(f"batch {size}: times faster than {name}: {words}")
    for text in row.warnings:
        print(f"  {text}")


def _text(line: Line, sizes: Sequence[str]) -> str:
    times = "".join(
        f"{_number(line.milliseconds.get(size)):>15}{_interval(line.faster.get(size)):>20}" for size in sizes
    )
    quality = f"{_number(line.metric):>10}{_interval(line.loss):>24}{_interval(line.loss_plain):>24}"
    return f"{line.name:15}{_number(line.megabytes):>8}{times}{quality}  {line.note[:100]}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _interval(found: Interval | None) -> str:
    return "-" if found is None else f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"


def geometric_mean(ratios: Sequence[float]) -> float | None:
    """Of ratios; None of none."""
    return math.exp(sum(map(math.log, ratios)) / len(ratios)) if ratios else None


class Figures:
    """The file of figures, brought up to date after every network."""

    def __init__(self, path: Path | None, setting: Setting) -> None:
        self._path, self.rows = path, dict[str, dict[str, Any]]()
        self._setting = json.loads(json.dumps(asdict(setting)))
        if path is not None and path.is_file():
            document = json.loads(path.read_text(encoding="utf-8"))
            if document["setting"] != self._setting:
                raise SystemExit(f"{path} was measured in another way: name another file.")
            self.rows = {row["network"]: row for row in document["rows"]}

    def add(self, row: Row) -> None:
        """Keep ``row``, and write the file anew."""
        self.rows[row.network] = json.loads(json.dumps(asdict(row)))
        document = {"benchmark": "quantize", "setting": self._setting, "environment": environment()}
        document |= {"recipes": quantizers.listing().splitlines(), "geometric_mean": self.mean()}
        common.write_json(self._path, {**document, "rows": list(self.rows.values())})

    def mean(self) -> float | None:
        """Of the ratios to the best recipe over all networks and batch sizes."""
        return geometric_mean([ratio["value"] for row in self.rows.values() for ratio in row["to_best"].values()])

    def slower(self) -> list[str]:
        """Where normfold's result is slower than the best recipe beyond doubt."""
        found = [(name, size, what) for name, row in self.rows.items() for size, what in row["verdict"].items()]
        return [f"{name}, batch {size}" for name, size, what in found if what == "slower"]


def networks(options: argparse.Namespace) -> list[Network]:
    """Those asked for, in alphabetical order."""
    wanted = [name for name in options.networks.split(",") if name]
    folder = options.zoo or options.garden / "onnx"
    files = {file.stem: file for file in sorted(folder.glob("*.onnx")) if not wanted or file.stem in wanted}
    if missing := [name for name in wanted if name not in files]:
        raise SystemExit(f"not in {folder}: {', '.join(missing)}")
    if options.zoo:
        return [Zoo(file, options.pictures or 32) for file in files.values()]
    return [Garden(file, options.garden, options.pictures or 5000) for file in files.values()]


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--garden", type=Path, default=garden_accuracy.GARDEN, help="folder of the garden")
    parser.add_argument("--zoo", type=Path, help="folder of random networks, instead of the garden")
    parser.add_argument("--networks", default="", help="names, separated by commas (default: all)")
    parser.add_argument("--recipes", default=",".join(quantizers.RECIPES), help="(default: all)")
    parser.add_argument("--batches", default="32,1", help="(default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument("--processes", type=int, default=3, help="of a run (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of a process (default: %(default)s)")
    parser.add_argument("--limit", type=float, default=900.0, help="seconds for one recipe (default: %(default)s)")
    parser.add_argument("--pictures", type=int, default=0, help="test pictures (default: 5000, of the zoo 32)")
    parser.add_argument("--prepare", action="store_true", help="make and score files, time nothing")
    parser.add_argument("--options", default="", help="further options of normfold quantize")
    parser.add_argument("--results", type=Path, default=Path("out/quantize"), help="files made (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here, and go on from there")
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> int:
    """Entry point."""
    options = arguments(given)
    setting = Setting(
        tuple(map(int, options.batches.split(","))),
        options.threads,
        tuple(name for name in options.recipes.split(",") if name),
        options.processes,
        options.seconds,
        options.limit,
        tuple(options.options.split()),
    )
    if options.prepare:
        for network in networks(options):
            prepare(network, options.results / network.name, setting)
        return 0
    figures = Figures(options.json, setting)
    print(quantizers.listing(), flush=True)
    for network in networks(options):
        if network.name not in figures.rows:
            row = row_of(network, options.results / network.name, setting)
            figures.add(row)
            show(row)
            sys.stdout.flush()
    slower, mean = figures.slower(), figures.mean()
    print(f"geometric mean over the best recipes: {'-' if mean is None else f'{mean:.2f}x'}")
    print(f"slower than the best recipe: {'; '.join(slower) or 'none'}")
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
