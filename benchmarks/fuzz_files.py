"""Feeds normfold hostile files for a while and lists what it must not have done.

    python benchmarks/fuzz_files.py --seconds 300 --seed 0
    python benchmarks/fuzz_files.py --what side
    python benchmarks/fuzz_files.py --what hostile --seconds 3600     # 300 files, every verb
    python benchmarks/fuzz_files.py --replay out/fuzz_files/01-internal/model.onnx

*models* are small valid networks with one to three mutations each, or with damaged bytes; *sweep* is one model for
every operator that onnx knows, its inputs without a type; *side* are files that stand beside a model or in its place;
*hostile* are `FILES` files, those and small models that ask for much and mutated ones, each given to every verb.
Every case runs in a process of its own; a command may take 30 s and, with all that it starts, 4 GiB. What counts as
wrong is defined in ``tests/fuzz/hostile.py``. What each case came to is in ``--log`` at once. Findings are grouped by
the innermost frame of normfold; of each group the smallest case is cut down and saved in ``--keep`` with a snippet that
builds it, and the exit is 1.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from functools import cache
from itertools import chain, islice
from pathlib import Path
from typing import Any, Final

import common

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks")]

import numpy as np  # noqa: E402 - before the limits of a case apply
import onnx  # noqa: E402

from fuzz.bombs import BOMBS  # noqa: E402 - found by the line above
from fuzz.graphs import random_model  # noqa: E402
from fuzz.hostile import Command, Done, Finding, run_case  # noqa: E402
from fuzz.mutations import SCHEMAS, Random, mutate, mutate_bytes  # noqa: E402
from fuzz.side_files import SHORT, good, in_place_of_a_model, side_cases  # noqa: E402

FILES: Final = 300
"""Hostile files, those beside a model included."""
RANDOM_MODELS: Final = 60
SHRINK_TRIES: Final = 120
QUICK: Final[tuple[Command, ...]] = (
    ("inspect", "model.onnx", "--json"),
    ("fold", "model.onnx", "-o", "out/o.onnx", "--no-verify", "--json"),
)
SLOW: Final[tuple[Command, ...]] = (
    ("fold", "model.onnx", "-o", "out/o.onnx", "--json"),
    ("fold", "model.onnx", "-o", "out/o.onnx", "--external-data", "always", "--no-verify", "--json"),
    ("verify", "model.onnx", "model.onnx", "--json"),
)
BENCH: Final[Command] = ("bench", "model.onnx", *SHORT, "--no-details", "--json")
NORM: Final = """<ir_version: 10, opset_import: ["": 23, "unknown": 1]>
sweep (float[2, 3, 4, 4] x) => (float[] z) <float[3] s = {1, 1, 1}, float[3] b = {1, 1, 1}> {
  h = unknown.Make(x)
  c = Relu(h)
  z = BatchNormalization(c, s, b, b, s)
}"""
Signature = tuple[str, str, str]


@dataclass
class Group:
    """Findings of one signature: how many, and the smallest case."""

    finding: Finding
    case: str
    data: bytes
    count: int = 0
    commands: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Result:
    """What one case came to. ``data`` is its model, empty where it is no model."""

    case: str
    data: bytes
    commands: tuple[Command, ...]
    done: tuple[Done, ...]
    findings: tuple[Finding, ...]

    def line(self) -> str:
        """As one line of JSON, without its bytes."""
        done = [{"command": command[0], **vars(one)} for command, one in zip(self.commands, self.done, strict=True)]
        return json.dumps({"case": self.case[:200], "done": done, "findings": [vars(one) for one in self.findings]})


# ------------------------------------------------------------------------------------------------- in a worker process


def prepare() -> None:
    """Import what the commands need once, so that the processes forked off start with it."""
    os.environ |= {"OPENBLAS_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1"}
    import sympy  # noqa: F401 - onnx_ir's, which the package itself puts off

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model.onnx").write_bytes(seeds()[0])
        for command in QUICK:
            _warm(folder, command)


def _warm(folder: Path, command: Command) -> None:
    from contextlib import redirect_stdout, suppress

    from normfold.cli import main

    words = [str(folder / word) if word in ("model.onnx", "out/o.onnx") else word for word in command]
    with open(os.devnull, "w") as nothing, redirect_stdout(nothing), suppress(SystemExit):  # noqa: PTH123
        main([word.replace("/out/o.onnx", "/o.onnx") for word in words])


@cache
def seeds() -> tuple[bytes, ...]:
    """Valid models to start from: the patterns of the coverage page, and random networks."""
    from pattern_models import every

    patterns = [pattern.model() for _, pattern in every()]
    return tuple(model.SerializeToString() for model in chain(patterns, map(random_model, range(RANDOM_MODELS))))


def model_case(seed: int, number: int, slow: float) -> Result:
    """One mutated model."""
    rng = Random(f"{seed}/{number}")
    data, done = mutated(rng)
    commands = (*QUICK, *SLOW) if rng.random() < slow else QUICK
    commands = (*commands, BENCH) if rng.random() < slow / 4 else commands
    return checked(f"{number}: {', '.join(done)}", data, commands)


def mutated(rng: Random) -> tuple[bytes, list[str]]:
    """A model with a few mutations, and what they are."""
    data = rng.choice(seeds())
    if rng.random() < 0.15:
        return mutate_bytes(data, rng), ["bytes"]
    model = onnx.ModelProto.FromString(data)
    done = mutate(model, rng, rng.choice((1, 1, 1, 2, 3)))
    return model.SerializeToString(), done


def hostile_case(seed: int, number: int) -> Result:
    """One hostile model, given to every verb."""
    if number < len(BOMBS):
        name = list(BOMBS)[number]
        data = BOMBS[name]().SerializeToString()
    else:
        data, done = mutated(Random(f"hostile/{seed}/{number}"))
        name = f"hostile {number}: {', '.join(done)}"

    def write(folder: Path) -> None:
        (folder / "model.onnx").write_bytes(data)
        onnx.save(good(), folder / "m.onnx")

    return _run(name, data, write, in_place_of_a_model("model.onnx"))


def sweep_case(number: int, _slow: float) -> Result:
    """One operator with as many inputs as it takes at most, none of which has a type, beside a norm that asks."""
    from onnx import defs, helper, parser

    domain, name = SCHEMAS[number]
    schema = defs.get_schema(name, domain)
    inputs = [f"u{k}" for k in range(min(schema.max_input, 8))]
    outputs = [f"y{k}" for k in range(max(1, min(schema.max_output, 4)))]
    model = parser.parse_model(NORM)
    opset = {"ai.onnx.ml": defs.onnx_ml_opset_version()}.get(domain, 1)
    if domain:
        model.opset_import.append(helper.make_opsetid(domain, opset))
    model.graph.node.append(helper.make_node("Unknown", ["x"], [*inputs, "unused"], domain="unknown"))
    node = helper.make_node(name, inputs, outputs, domain=domain)
    for attribute in schema.attributes.values():
        if attribute.required:
            node.attribute.append(_filled(attribute))
    model.graph.node.append(node)
    model.graph.output.extend(onnx.ValueInfoProto(name=output) for output in outputs)
    return checked(f"{domain or 'ai.onnx'}.{name}", model.SerializeToString(), (*QUICK, SLOW[0]))


def _filled(attribute: Any) -> onnx.AttributeProto:
    """A required attribute with some value of its type."""
    from onnx import helper, numpy_helper

    body = helper.make_graph([], "body", [], [])
    tensor = numpy_helper.from_array(np.zeros(1, np.float32))
    values = {1: 1.0, 2: 1, 3: "a", 4: tensor, 5: body, 6: [1.0], 7: [1], 8: ["a"], 9: [tensor], 10: [body]}
    return helper.make_attribute(attribute.name, values[int(attribute.type)], attr_type=int(attribute.type))


def checked(case: str, data: bytes, commands: Sequence[Command]) -> Result:
    """Run ``commands`` on a model."""
    return _run(case, data, lambda folder: (folder / "model.onnx").write_bytes(data), commands)


def _run(case: str, data: bytes, write: Callable[[Path], object], commands: Sequence[Command]) -> Result:
    """What ``commands`` come to; what took too long counts where it repeats: machines stand still."""
    for last in (False, True):
        with tempfile.TemporaryDirectory(prefix="fuzz-", ignore_cleanup_errors=True) as name:
            write(Path(name))
            done, findings = run_case(Path(name), commands)
        if last or not any(finding.kind in ("timeout", "slow") for finding in findings):
            break
    return Result(case, data, tuple(commands), tuple(done), tuple(findings))


def side_case(number: int, _slow: float) -> Result:
    """One hostile file that is no model."""
    case, write, commands = next(islice(side_cases(), number, None))
    return _run(case, b"", write, commands)


# ----------------------------------------------------------------------------------------------------- in the first one


def jobs(options: argparse.Namespace) -> Iterator[tuple[Callable[..., Result], tuple[Any, ...]]]:
    """What is to be done, in order; without an end where models are mutated."""
    beside = sum(1 for _ in side_cases())
    if options.what == "hostile":
        yield from ((hostile_case, (options.seed, number)) for number in range(options.start, FILES - beside))
    if options.what in ("side", "hostile", "all"):
        yield from ((side_case, (number, options.slow)) for number in range(beside))
    if options.what in ("sweep", "all"):
        yield from ((sweep_case, (number, options.slow)) for number in range(len(SCHEMAS)))
    if options.what in ("models", "all"):
        number = options.start
        while True:
            yield model_case, (options.seed, number, options.slow)
            number += 1


def results(options: argparse.Namespace) -> Iterator[Result]:
    """Results as they come, until the time is up or somebody stops it."""
    until, todo = time.monotonic() + options.seconds, jobs(options)
    with ProcessPoolExecutor(options.workers, initializer=prepare) as pool:
        pending: set[Future[Result]] = set()
        try:
            while True:
                room = 2 * options.workers - len(pending) if time.monotonic() < until else 0
                pending |= {pool.submit(function, *arguments) for function, arguments in islice(todo, room)}
                if not pending:
                    return
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        except (KeyboardInterrupt, BrokenExecutor):
            pool.shutdown(wait=False, cancel_futures=True)


def group(groups: dict[Signature, Group], result: Result) -> None:
    """Count the findings of ``result``; keep it where it is the smallest of its kind."""
    for finding in result.findings:
        known = groups.get(finding.signature)
        if known is None:
            print(f"new: {finding.kind} {finding.place} {finding.message[:120]} [{result.case}]", flush=True)
        if known is None or len(result.data) < len(known.data):
            count, commands = (known.count, known.commands) if known else (0, Counter())
            known = groups[finding.signature] = Group(finding, result.case, result.data, count, commands)
        known.count += 1
        known.commands[finding.command[0]] += 1


Again = Callable[[Group, bytes], Finding | None]
"""What the command of a group comes to on other data."""


def _by_command(group: Group, data: bytes) -> Finding | None:
    found = checked("", data, [group.finding.command]).findings
    return next((one for one in found if one.signature == group.finding.signature), None)


def shrink(group: Group, again: Again = _by_command) -> bytes:
    """The data of ``group`` with as little as still shows its finding."""
    data = group.data
    tries, progress = SHRINK_TRIES, True
    while progress and tries > 0:
        progress = False
        for smaller in _smaller(data):
            tries -= 1
            found = again(group, smaller)
            if found is not None and found.signature == group.finding.signature:
                data, progress = smaller, True
                break
            if tries <= 0:
                break
    return data


def _smaller(data: bytes) -> Iterator[bytes]:
    try:
        model = onnx.ModelProto.FromString(data)
    except Exception:  # noqa: BLE001 - damaged bytes stay as they are
        return
    graph = model.graph
    for entries in (graph.node, graph.value_info, graph.output, graph.input, graph.initializer, model.functions):
        for position in reversed(range(len(entries))):
            kept = list(entries)
            dropped = kept.pop(position)
            yield _with(model, entries, kept)
            if isinstance(dropped, onnx.NodeProto) and dropped.input and len(dropped.output) == 1:
                yield _with(model, entries, kept, rename=(dropped.output[0], dropped.input[0]))
    for node in graph.node:
        for position in range(len(node.attribute)):
            yield _with(model, node.attribute, [a for k, a in enumerate(node.attribute) if k != position])


def _with(model: onnx.ModelProto, entries: Any, kept: Sequence[Any], rename: tuple[str, str] | None = None) -> bytes:
    before = model.SerializeToString()
    copies = [type(one).FromString(one.SerializeToString()) for one in kept]
    del entries[:]
    entries.extend(copies)
    if rename:
        for node in model.graph.node:
            node.input[:] = [rename[1] if name == rename[0] else name for name in node.input]
    made = model.SerializeToString()
    model.ParseFromString(before)
    return made


def keep(groups: Sequence[Group], folder: Path, again: Again = _by_command) -> None:
    """Save a case of each group, cut down, with its snippet."""
    shutil.rmtree(folder, ignore_errors=True)
    for number, found in enumerate(groups, 1):
        home = folder / f"{number:02}-{found.finding.kind.replace(' ', '-')}"
        home.mkdir(parents=True)
        data = shrink(found, again) if found.data else b""
        if data:
            (home / "model.onnx").write_bytes(data)
        (home / "finding.txt").write_text(_told(found, data))


def _told(found: Group, data: bytes) -> str:
    finding = found.finding
    lines = [
        f"{finding.kind} at {finding.place or '?'}: {finding.message}",
        f"seen {found.count} times, by {dict(found.commands)}; smallest: {found.case}",
        f"normfold {' '.join(finding.command)}",
    ]
    if data:
        text = base64.b64encode(data).decode()
        lines += ["", "import base64, onnx", f'model = onnx.load_model_from_string(base64.b64decode("{text}"))']
        try:
            lines += ["", onnx.printer.to_text(onnx.load_model_from_string(data))[:6000]]
        except Exception as error:  # noqa: BLE001 - what cannot be printed is still in its file
            lines += ["", f"(no text form: {type(error).__name__})"]
    return "\n".join(lines) + "\n"


def table(groups: Sequence[Group]) -> str:
    """The findings, one a line."""
    rows = [f"{'seen':>6}  {'kind':13} {'where':58} what"]
    rows += [f"{g.count:6}  {g.finding.kind:13} {g.finding.place:58} {g.finding.message[:90]!r}" for g in groups]
    return "\n".join(rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; exits 1 where anything was found."""
    parser = argparse.ArgumentParser(description="Feed normfold hostile files.")
    parser.add_argument("--what", choices=["all", "models", "sweep", "side", "hostile"], default="all")
    parser.add_argument("--seconds", type=float, default=300.0, help="nothing is begun later (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the mutations (default: %(default)s)")
    parser.add_argument("--start", type=int, default=0, help="number of the first model")
    parser.add_argument("--slow", type=float, default=0.03, help="part of the models that are also run")
    parser.add_argument("--workers", type=int, default=2, help="processes (default: %(default)s)")
    parser.add_argument("--keep", type=Path, default=Path("out/fuzz_files"), help="folder for what is found")
    parser.add_argument(
        "--log", type=Path, default=Path("out/fuzz_files.jsonl"), help="what each case came to, at once"
    )
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--replay", type=Path, help="run every command on this model only")
    options = parser.parse_args(arguments)
    if options.replay:
        prepare()
        replayed = checked("replay", options.replay.read_bytes(), (*QUICK, *SLOW))
        print(*replayed.findings or replayed.done, sep="\n")
        return 1 if replayed.findings else 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    started, groups, codes, cases = time.monotonic(), {}, Counter[str](), 0
    options.log.parent.mkdir(parents=True, exist_ok=True)
    with options.log.open("w") as log:
        for result in results(options):
            cases += 1
            log.write(result.line() + "\n")
            log.flush()
            codes.update(one.code or "done" for one in result.done)
            group(groups, result)
    seconds = time.monotonic() - started
    found = sorted(groups.values(), key=lambda one: -one.count)
    print(f"{cases} cases, {codes.total()} commands in {seconds:.0f} s: {dict(codes.most_common())}")
    if found:
        print(table(found))
        keep(found, options.keep)
    if options.json:
        rows = [{**vars(one.finding), "seen": one.count, "case": one.case} for one in found]
        document = {"seed": options.seed, "cases": cases, "commands": codes.total(), "codes": codes, "findings": rows}
        common.write_json(options.json, document)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
