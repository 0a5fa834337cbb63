"""Folded and quantised networks on other targets: ratios to the source where a clock is there, counts, equal outputs.

    python benchmarks/zoo.py --only resnet50 --only mobilenetv2_100 --only densenet121
    python benchmarks/edge.py --targets local,node,browser --threads 1,2 --json out/edge.json      # a quiet machine
    python benchmarks/edge.py --targets arm64,cortex-a53,cortex-a76 --json out/edge.json           # any machine
    python benchmarks/edge.py --targets local:qnn,browser:webgpu --json out/edge.json
    python benchmarks/edge.py --targets local,sshd --networks resnet20 --json out/edge.json

For every network, trained ones of the garden and ones of ImageNet's size with random weights, the folded model and an
int8 one (QDQ) are taken beside it, one picture at a time, by `normfold.measure` (docs/edge.md says what the figures of
each target mean): fresh processes, blocks in turns, intervals. The input is a test picture. ``TARGET:EP`` is another
execution provider there, ``sshd`` an ssh server of this machine; an NPU's compiler is asked about each model by itself,
and besides about the int8 ones that ONNX Runtime's ``quantize_static`` makes of the network unfolded and folded.
Outputs are compared with those of the same model on this machine; a mismatch is printed with the first value that
differs, and the exit is 1. On arm64, 200 test pictures go through each int8 network besides.

The file is written after every network and target, and what is in it is not done again: a run that was stopped goes on
where it was. ``--show`` prints what is in the file. A target that cannot run here is named with the command that makes
it, and left out.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import common
import garden_accuracy
import local_sshd
import quantizers

import normfold
from normfold.errors import NormfoldError
from normfold.measure import Candidate, Cell, Conditions, Effort, Experiment, SessionProfile, measure, open_candidate
from normfold.measure.documents import cell_record
from normfold.measure.inputs import ArrayFolder
from normfold.models.data import UserInputs
from normfold.report.environment import environment
from normfold.runtime.session_profile import Threading, session_request
from normfold.runtime.targets import LOCAL, TARGETS, Target, find
from normfold.runtime.targets.timing_client import TimingClient

EFFORT: Final = Effort(first=5, most=10, per_process=1.0, time_limit=90.0, copies=1, details=True)
PICTURES: Final = 200
"""Those that the int8 model's scales come from, and those whose outputs are compared on an emulated processor."""
RTOL: Final = 0.5
"""What int8 may differ by from the source: whether it is good enough is a question for another benchmark."""
LARGE: Final = ("resnet50", "mobilenetv2_100", "densenet121")
"""Of ImageNet's size, as benchmarks/zoo.py makes them."""
RANDOM: Final = 4
"""Pictures of noise that calibrate those."""
AT_ONCE: Final = 25
STEPS: Final = 255
"""An output without a scale of its own is looked at in so many steps of its range."""
NORMS: Final = ("BatchNormalization", "LayerNormalization", "InstanceNormalization", "GroupNormalization")

SSHD: Final = "sshd"

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Place:
    """A target and an execution provider there."""

    text: str
    """``TARGET``, ``TARGET:EP`` or `SSHD`."""
    server: str = ""
    """Address of `SSHD`."""

    @property
    def target(self) -> Target:
        """The target."""
        return find(self._parts[0])

    @property
    def provider(self) -> str:
        """Its execution provider."""
        return self._parts[1]

    @property
    def _parts(self) -> tuple[str, str]:
        if self.text == SSHD:
            return self.server, "cpu"
        name, _colon, provider = self.text.partition(":")
        return (name, provider or "cpu") if name in TARGETS else (self.text, "cpu")


@dataclass(frozen=True, slots=True)
class Agreement:
    """Outputs of an int8 network on an emulated processor and on this one, over test pictures."""

    pictures: int
    identical: float
    """Share of values that are equal bit for bit."""
    within_a_step: float
    """Share of values at most one step of the output's scale apart."""
    same_class: int | None
    """Pictures with the same largest value; None where outputs are no classes."""


def variants(source: Path, folder: Path, calibrating: Any) -> dict[str, Path]:
    """The files of a network: as it is, folded, and in int8; one that cannot be made is left out, and said."""
    name = input_name(source)
    files = {"source": source, "folded": folder / "folded.onnx", "int8": folder / "int8.onnx"}
    normfold.fold(source, output=files["folded"])
    try:
        normfold.quantize(
            source, output=files["int8"], calibrate={name: calibrating}, format="qdq", unmeasured=True, force=True
        )
    except NormfoldError as error:
        print(f"{source.stem}: no int8 [{error.code}]: {error.message}", file=sys.stderr)
    return {kind: file for kind, file in files.items() if file.exists()}


def static(source: Path, file: Path, calibrating: Any) -> Path:
    """The int8 model that ONNX Runtime makes of ``source``, every norm left in place."""
    import numpy as np

    data = file.with_suffix(".npz")
    np.savez(data, **{input_name(source): calibrating})
    samples = quantizers.Samples(data, len(calibrating), source)
    quantizers.static(source, file, samples, {"per_channel": True})
    return file


def input_name(source: Path) -> str:
    """The name of a network's only input."""
    import onnx

    return str(onnx.load(source, load_external_data=False).graph.input[0].name)


def measured(files: Mapping[str, Path], place: Place, threads: int, given: UserInputs) -> Cell:
    """The figures of one network."""
    with ExitStack() as stack:
        target = stack.enter_context(place.target.reached())
        profile = SessionProfile(provider=place.provider)
        models = tuple(stack.enter_context(open_candidate(file, kind, profile)) for kind, file in files.items())
        conditions = Conditions(threads=threads, target=target.name)
        return measure(Experiment(models, conditions, EFFORT, given, rtol=RTOL, target=target))


def compiled(files: Mapping[str, Path], place: Place, given: UserInputs) -> Row:
    """What the compiler of ``place`` takes of each model, and why it takes none of some."""
    cells = {kind: measured({kind: file}, place, 1, given) for kind, file in files.items()}
    records = {kind: cell_record(cell) for kind, cell in cells.items()}
    first = next((one for one in records.values() if one["refused"] is None), next(iter(records.values())))
    return {
        **first,
        "figures": [figure for one in records.values() for figure in one["figures"]],
        "left_out": {kind: one["refused"] for kind, one in records.items() if one["refused"] is not None},
    }


def agreement(file: Path, target: Target, tested: Any) -> Agreement:
    """How far the int8 network ``file`` computes the same on ``target`` as here."""
    import numpy as np

    with ExitStack() as stack:
        folder = stack.enter_context(ArrayFolder())
        reached = stack.enter_context(target.reached())
        model = stack.enter_context(open_candidate(file))
        sent = [folder.write({model.inputs[0].name: part}) for part in np.split(tested, len(tested) // AT_ONCE)]
        there, here = (_outputs(model, one, sent) for one in (reached, LOCAL))
    step = (np.ptp(here) / STEPS) or 1.0
    near = np.abs(there.astype(np.float64) - here) <= step * (1 + 1e-6)
    classes = here.ndim == 2
    same = int(np.sum(np.argmax(there, 1) == np.argmax(here, 1))) if classes else None
    return Agreement(len(tested), float(np.mean(there == here)), float(np.mean(near)), same)


def _outputs(model: Candidate, target: Target, sent: Sequence[Any]) -> Any:
    """The first output of ``model`` on ``target``, of all pictures."""
    import numpy as np

    session = session_request(SessionProfile(), 1, "server", Threading(0))
    with TimingClient(time_limit=3600.0, target=target) as client:
        client.hello((), 0)
        client.open("model", model.model, session)
        found = []
        for entries in sent:
            client.bind("model", entries)
            found.append(np.array(next(iter(client.outputs("model").values()))))
        return np.concatenate(found)


def lines(row: Row) -> Iterator[str]:
    """What there is to see of a row, a line for each model."""
    head = f"{row['network']:16} {row['target']:22} {row['threads']}"
    if row["refused"] is not None:
        yield f"{head}  [{row['refused']['code']}] {row['refused']['message']}"
        return
    ratios = {one["other"]: one for one in row["comparisons"]}
    for figure in row["figures"]:
        one = ratios.get(figure["name"])
        ratio = "" if one is None else "{value:.3f} ({low:.3f} to {high:.3f}) ".format(**one["ratio"]) + one["verdict"]
        yield f"{head}  {figure['name']:9} {figure['kind']:9} {_said(figure):60} {ratio}".rstrip()
    for name, error in row.get("left_out", {}).items():
        yield f"{head}  {name:8} [{error['code']}] {error['message']}"
    if row["kind"] == "counted":
        yield f"{head}  counts of two processes differ by at most {_spread(row):.1e}"
    if "agreement" in row:
        found = row["agreement"]
        same = "" if found["same_class"] is None else f", the same class for {found['same_class']}"
        shares = f"{found['identical']:.3%} of values identical, {found['within_a_step']:.3%} within a step{same}"
        yield f"{head}  int8 over {found['pictures']} pictures: {shares}"


def _said(figure: Row) -> str:
    """A figure in the words of its kind."""
    deviation = "" if figure["deviation"] is None else f"deviation {figure['deviation']:.1e}"
    if figure["kind"] == "measured":
        peak = (figure["details"] or {}).get("peak_rss")
        memory = "-" if peak is None else f"{peak / 2**20:.0f} MiB"
        return f"{figure['latency_ns']['value'] / 1e6:9.3f} ms  {memory:>8}  {deviation}"
    if figure["kind"] == "counted":
        counts = figure["counts"]
        return f"{figure['instructions'] / 1e6:9.2f} M, {counts['dot'] / 1e6:.2f} M dot products  {deviation}"
    if figure["kind"] == "compiled":
        compiled = figure["compiled"]
        left, size = len(compiled["elsewhere"]), compiled["context_bytes"]
        norms = sum(count for found in compiled["operators"].values() for name, count in found.items() if name in NORMS)
        return f"{sum(figure['providers'].values())} nodes, {left} left to others, {norms} norms, {size:,} bytes"
    return deviation


def _spread(row: Row) -> float:
    """Largest relative difference between the counts of two processes."""
    totals = [
        [sum(count for kind, count in counts.items() if not kind.startswith("bytes")) for counts in one.values()]
        for one in (sample["counts"] for sample in row["samples"])
    ]
    return max(abs(a / b - 1) for one, other in itertools.pairwise(totals) for a, b in zip(one, other, strict=True))


def same_verdicts(rows: Sequence[Row]) -> Iterator[str]:
    """Where ssh and local measured the same network, whether they say the same of it."""
    verdicts = {
        (row["network"], row["threads"], row["target"]): [one["verdict"] for one in row["comparisons"]] for row in rows
    }
    for (network, threads, target), found in verdicts.items():
        here = verdicts.get((network, threads, LOCAL.name))
        if target.startswith("ssh") and here is not None:
            same = "the same" if found == here else "DIFFERENT"
            yield f"{network:16} {target} {threads}  {found}, local {here}: {same}"


def usable(names: Sequence[str], server: str) -> list[Place]:
    """Those that can run here; ``server`` is the address of `SSHD`."""
    places = [Place(name, server) for name in names]
    for place in places:
        if place.target.missing:
            print(f"{place.text}: {place.target.missing}; {place.target.install}", file=sys.stderr)
    return [place for place in places if not place.target.missing]


def networks(options: argparse.Namespace) -> list[Path]:
    """The files of all networks that are asked for."""
    chosen = [name for name in options.networks.split(",") if name]
    large = [options.zoo / f"{name}.onnx" for name in LARGE]
    found = [*sorted((options.garden / "onnx").glob("*.onnx")), *(file for file in large if file.exists())]
    return [file for file in found if not chosen or file.stem in chosen]


def pictures(source: Path, garden: Path, split: str) -> Any:
    """Those of a network: of the garden, or noise for one with random weights."""
    import numpy as np

    if source.stem not in LARGE:
        return garden_accuracy.pictures(garden, PICTURES, split)[0]
    return np.random.default_rng(0).standard_normal((RANDOM, 3, 224, 224), dtype=np.float32)


def rows_of(
    source: Path, places: Sequence[Place], threads: Sequence[int], known: set[Any], garden: Path
) -> Iterator[Row]:
    """The rows of a network that are not known yet."""
    wanted = [(place, count) for place in places for count in threads if (source.stem, place.text, count) not in known]
    if not wanted:
        return
    with TemporaryDirectory() as folder:
        calibrating, tested = pictures(source, garden, "calibration"), pictures(source, garden, "test")
        files = variants(source, Path(folder), calibrating)
        given = UserInputs(arrays={input_name(source): tested[:1]})
        for place, count in wanted:
            kind = place.target.kind_of(place.provider)
            if kind == "compiled":
                pairs = {"unf. ort": source, "fold. ort": files["folded"]}
                more = {
                    name: static(file, Path(folder) / f"{index}.onnx", calibrating)
                    for index, (name, file) in enumerate(pairs.items())
                }
                found = compiled({**files, **more}, place, given)
            else:
                found = cell_record(measured(files, place, count, given))
            row = {"network": source.stem, **found, "target": place.text, "kind": kind}
            if place.text == "arm64" and source.stem not in LARGE and "int8" in files and found["refused"] is None:
                row["agreement"] = asdict(agreement(files["int8"], place.target, tested))
            yield row


def main() -> int:
    """Measure what is not known, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--targets", default="local,node,browser")
    parser.add_argument("--threads", default="1", help="such as 1,2")
    parser.add_argument("--networks", default="")
    parser.add_argument("--garden", type=Path, default=garden_accuracy.GARDEN)
    parser.add_argument("--zoo", type=Path, default=Path("out/zoo"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--show", action="store_true")
    options = parser.parse_args()
    threads = [int(count) for count in options.threads.split(",")]
    rows: list[Row] = []
    if options.json is not None and options.json.exists():
        stored = json.loads(options.json.read_text(encoding="utf-8"))["cells"]
        rows = [row for row in stored if row["refused"] is None or row["refused"]["code"] == "outputs-differ"]
    known = {(row["network"], row["target"], row["threads"]) for row in rows}
    print(
        f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors; {len(rows)} rows are known", flush=True
    )
    for row in rows if options.show else ():
        print(*lines(row), sep="\n")
    names = options.targets.split(",")
    with ExitStack() as stack:
        keys = Path(stack.enter_context(TemporaryDirectory()))
        server = stack.enter_context(local_sshd.serving(keys)) if SSHD in names else ""
        for source in () if options.show else networks(options):
            for row in rows_of(source, usable(names, server), threads, known, options.garden):
                rows.append(row)
                print(*lines(row), sep="\n", flush=True)
                if options.json is not None:
                    common.write_json(options.json, {"environment": environment(), "cells": rows})
    print(*same_verdicts(rows), sep="\n")
    return int(any(row["refused"] is not None for row in rows))


if __name__ == "__main__":
    sys.exit(main())
