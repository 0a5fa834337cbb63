"""What every tool makes of every pattern of `pattern_models`, measured: the data behind the coverage page.

Each pattern becomes a file, and each tool runs on all of them in a process of its own. Every result is compared with
its source by ONNX Runtime without optimisations (by onnx's reference evaluator where that cannot run the source), and
what is left of what ought to go is counted by `norm_count`, which belongs to no tool.

    python benchmarks/patterns.py                   # every tool; peers' outcomes are cached in out/peers
    python benchmarks/patterns.py --tool normfold   # this column only; the others stay as the file has them
    make docs

A peer's verdict is ``gone``, ``part`` or ``left`` for what was counted, with ``+n`` operations that it inserted;
``wrong`` where the result differs or does not run, ``inexact`` where it differs by less than 1 %; ``crash``. The exit
is 1 where normfold's own result is wrong.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import common
import fold_coverage
import peers
from norm_count import LINEAR, OTHER_NORMS, base_type, bodies, census
from pattern_models import Pattern, every

if TYPE_CHECKING:
    import onnx

PAGE: Final = Path(__file__).resolve().parents[1] / "docs" / "data" / "patterns.json"
ROUGH: Final = 1e-2
"""An error up to here is one of precision (integer arithmetic, say), not of algebra."""
EVALUATE: Final = "evaluate"
LIMIT: Final = 300.0
"""Seconds for a tool on all patterns, beside two for each."""
Result = dict[str, Any]


def count(model: onnx.ModelProto, what: str) -> int:
    """How much of ``what`` (see `pattern_models.Pattern.counts`) there is in ``model``."""
    return sum(count_one(model, part) for part in what.split("+"))


def count_one(model: onnx.ModelProto, what: str) -> int:
    """One of the parts of `count`."""
    whole = census(model)
    if what == "norms":
        return whole.norms
    if what == "tails":
        return whole.affine_chains + sum(has_tail(node, model) for node in live(model))
    if what == "constants":
        return len(model.graph.node) - len(live(model)) - sum(n.op_type == "Constant" for n in model.graph.node)
    if what == "bias":
        return sum(base_type(node) in LINEAR and len([i for i in node.input if i]) > 2 for node in live(model))
    if what == "linear":
        return sum(base_type(node) in LINEAR for node in live(model))
    return sum(base_type(node) == what for node in live(model))


def live(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Nodes that compute something from the model's inputs."""
    return [node for body in bodies(model) for node in body.nodes]


def has_tail(node: onnx.NodeProto, model: onnx.ModelProto) -> bool:
    """Whether a norm with live statistics has a scale other than one or a bias other than zero."""
    import numpy as np
    from onnx import numpy_helper

    if node.op_type not in OTHER_NORMS:
        return False
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    made = {n.output[0]: n.attribute[0].t for n in model.graph.node if n.op_type == "Constant" and n.attribute}
    values = [numpy_helper.to_array({**stored, **made}[name]) for name in node.input if name in {**stored, **made}]
    return any(not np.all(value == 1) and not np.all(value == 0) for value in values)


def summary(pattern: Pattern, source: onnx.ModelProto, result: onnx.ModelProto) -> Result:
    """What is left of what ought to go, of how many, and what came in instead."""
    whole, left = (max(0, count(model, pattern.counts) - pattern.least) for model in (source, result))
    counted = {"Add" if part == "Sub" else "Linear" if part == "linear" else part for part in pattern.counts.split("+")}
    inserted = census(result).inserted(census(source))
    return {"left": left, "of": whole, "inserted": {k: n for k, n in inserted.items() if k not in counted}}


def decided(decisions: Sequence[Mapping[str, Any]]) -> Result:
    """Outcomes, rules and premises of normfold's decisions."""
    return {
        "outcomes": [decision["outcome"] for decision in decisions],
        "rules": sorted({rule for decision in decisions for rule in decision["rules"]}),
        "premises": sorted({refusal["premise"] for decision in decisions for refusal in decision["refused_by"]}),
    }


def perform(tool: str, source: Path, target: Path) -> None:
    """One job, in a worker: run a tool, or evaluate a model where ``tool`` is `EVALUATE`."""
    if tool == EVALUATE:
        fold_coverage.evaluate(source, source.with_name("feeds.npz"), target)
    elif tool == peers.NORMFOLD:
        import normfold

        decisions = normfold.fold(source, output=target, verify=False).decisions
        target.with_suffix(".json").write_text(json.dumps([asdict(decision) for decision in decisions]))
    else:
        peers.PEERS[tool](str(source), str(target))


def work(jobs: Path) -> None:
    """Do the jobs that a file lists, one after the other; what goes wrong is written beside the target."""
    for tool, source, target in json.loads(jobs.read_text()):
        try:
            perform(tool, Path(source), Path(target))
        except Exception as problem:  # noqa: BLE001 - whatever a tool raises is its answer
            words = [line.strip() for line in str(problem).splitlines() if line.strip()]
            message = re.sub(r"<[^<>]*>", "...", words[0]) if words else ""
            failed(target).write_text(f"{type(problem).__name__}: {message}"[:200])


def failed(target: Path | str) -> Path:
    """Where it stands why there is no ``target``."""
    return Path(f"{target}.error")


def batch(tool: str, jobs: Sequence[tuple[Path, Path]]) -> None:
    """Run ``tool`` on every source in one process; a job that kills it, or takes too long, fails alone."""
    pending = list(jobs)
    while pending:
        listed = pending[0][1].with_suffix(".jobs")
        listed.write_text(json.dumps([(tool, str(source), str(target)) for source, target in pending]))
        command = [sys.executable, __file__, "--work", str(listed)]
        try:
            subprocess.run(
                command, capture_output=True, timeout=LIMIT + 2 * len(pending), env=common.one_thread(), check=False
            )
            reason = "killed its process"
        except subprocess.TimeoutExpired:
            reason = "no result in time"
        pending = [job for job in pending if not job[1].is_file() and not failed(job[1]).is_file()]
        if pending:
            failed(pending.pop(0)[1]).write_text(reason)


@dataclass(frozen=True, slots=True)
class Case:
    """One pattern as a file, with a folder of its own."""

    heading: str
    pattern: Pattern
    model: onnx.ModelProto
    folder: Path

    @property
    def source(self) -> Path:
        """The pattern's file."""
        return self.folder / "source.onnx"

    def target(self, tool: str) -> Path:
        """Where a tool's result is to lie."""
        return self.folder / f"{tool}.onnx"

    def record(self, tool: str, cache: Path) -> Path:
        """Where a peer's cell is kept."""
        digest = hashlib.sha256(self.model.SerializeToString(deterministic=True)).hexdigest()[:16]
        return cache / f"pattern.{digest}.{tool}-{peers.version_of(tool)}.json"

    def cell(self, tool: str) -> Result:
        """What ``tool`` made of it, once it was run and evaluated."""
        import onnx

        target = self.target(tool)
        if failed(target).is_file():
            return {"verdict": "crash", "message": failed(target).read_text().replace(str(self.folder), "")}
        cell = summary(self.pattern, self.model, onnx.load(target))
        problem, message = self.difference(target)
        done = "gone" if not cell["left"] else "left" if cell["left"] >= cell["of"] else "part"
        own = decided(json.loads(target.with_suffix(".json").read_text())) if tool == peers.NORMFOLD else {}
        return {"verdict": problem or done, **cell, **({"message": message} if problem else {}), **own}

    def difference(self, target: Path) -> tuple[str, str]:
        """Whether a result is wrong or inexact, and why; nothing where it is right."""
        import onnx

        lost = {value.name for value in self.model.graph.input} - {v.name for v in onnx.load(target).graph.input}
        if lost:
            return "wrong", f"a caller can no longer give {', '.join(sorted(lost))}"
        expected, actual = outputs(self.source), outputs(target)
        if not expected.is_file():
            return self.reference_difference(target)
        if not actual.is_file():
            return "wrong", failed(actual).read_text().replace(str(self.folder), "")
        return verdict_on(fold_coverage.largest_error(expected, actual))

    def reference_difference(self, target: Path) -> tuple[str, str]:
        """The same by onnx's reference evaluator, for sources that ONNX Runtime does not run."""
        import numpy as np
        import onnx
        from onnx.reference import ReferenceEvaluator

        values = self.model.graph.input
        rng = np.random.default_rng(7)
        feeds = {
            value.name: rng.standard_normal([d.dim_value for d in value.type.tensor_type.shape.dim]).astype(
                onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
            )
            for value in values
        }
        wanted = ReferenceEvaluator(self.model).run(None, feeds)
        try:
            got = ReferenceEvaluator(onnx.load(target)).run(None, feeds)
        except (KeyError, RuntimeError, TypeError, ValueError, NotImplementedError) as problem:
            return "wrong", f"does not run: {str(problem).splitlines()[0]}"[:200]
        pairs = [(np.asarray(a, np.float64), np.asarray(b, np.float64)) for a, b in zip(wanted, got, strict=True)]
        return verdict_on(
            max(fold_coverage.relative_difference(a, b) if np.isfinite(b).all() else float("inf") for a, b in pairs)
        )


def outputs(model: Path) -> Path:
    """Where the values lie that a model gave."""
    return model.with_suffix(".npz")


def verdict_on(error: float) -> tuple[str, str]:
    """What to say of a relative error; nothing where it is small."""
    if error <= fold_coverage.TOLERANCE:
        return "", ""
    return ("inexact" if error <= ROUGH else "wrong"), f"differs by {error:.2g} of its range"


def written(folder: Path) -> Iterator[Case]:
    """Every pattern, as a file below ``folder``."""
    import onnx

    for place, (heading, pattern) in enumerate(every()):
        case = Case(heading, pattern, pattern.model(), folder / str(place))
        case.folder.mkdir()
        onnx.save(case.model, case.source)
        yield case


def measure(cases: Sequence[Case], tools: Sequence[str], cache: Path) -> list[Result]:
    """The rows of the page's data with the columns of ``tools``; a peer's of an earlier run are reused."""
    rows = [
        {
            "heading": c.heading,
            "name": c.pattern.name,
            "told": list(c.pattern.told),
            "counts": c.pattern.counts,
            "tools": {},
        }
        for c in cases
    ]
    batch(EVALUATE, [(case.source, outputs(case.source)) for case in cases])
    for tool in (tool for tool in tools if peers.version_of(tool) != "-"):
        fresh = [case for case in cases if tool == peers.NORMFOLD or not case.record(tool, cache).is_file()]
        batch(tool, [(case.source, case.target(tool)) for case in fresh])
        made = [case.target(tool) for case in fresh if case.target(tool).is_file()]
        batch(EVALUATE, [(target, outputs(target)) for target in made])
        for case in fresh:
            case.record(tool, cache).write_text(json.dumps(case.cell(tool)))
        for row, case in zip(rows, cases, strict=True):
            row["tools"][tool] = json.loads(case.record(tool, cache).read_text())
    return rows


def merged(rows: Sequence[Result], versions: dict[str, str], tools: Sequence[str]) -> Result:
    """The document, with the columns of tools that were not run as the file has them."""
    old = json.loads(PAGE.read_text()) if PAGE.is_file() else {"versions": {}, "patterns": []}
    before = {row["name"]: row["tools"] for row in old["patterns"]}
    for row in rows:
        kept = {tool: cell for tool, cell in before.get(row["name"], {}).items() if tool not in row["tools"]}
        row["tools"] = {
            tool: {**kept, **row["tools"]}[tool] for tool in peers.TOOLS if tool in {**kept, **row["tools"]}
        }
    known = {tool: version for tool, version in versions.items() if tool in tools and version != "-"}
    return {
        "benchmark": "patterns",
        "tolerance": fold_coverage.TOLERANCE,
        "versions": {tool: {**old["versions"], **known}.get(tool, "-") for tool in peers.PEERS},
        "patterns": list(rows),
    }


def laid_out(document: Result) -> str:
    """The document as JSON with one line for each cell, so that a change shows as one."""
    lines = []
    for row in document["patterns"]:
        cells = ",\n".join(f"   {json.dumps(tool)}: {json.dumps(cell)}" for tool, cell in row["tools"].items())
        rest = json.dumps({key: value for key, value in row.items() if key != "tools"})
        lines.append(f'  {rest[:-1]}, "tools": {{\n{cells}}}}}')
    head = json.dumps({key: value for key, value in document.items() if key != "patterns"}, indent=1)
    return head[:-2] + ',\n "patterns": [\n' + ",\n".join(lines) + "]}\n"


def cell_text(cell: Result | None) -> str:
    """A cell of the table on the terminal."""
    if cell is None:
        return "-"
    extra = sum(cell.get("inserted", {}).values())
    return cell["verdict"] + (f" +{extra}" if extra else "")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; exits 1 where normfold crashes or its result is wrong."""
    if sys.argv[1:2] == ["--work"]:
        work(Path(sys.argv[2]))
        return 0
    parser = argparse.ArgumentParser(description="Measure what every tool makes of the patterns.")
    parser.add_argument("--tool", action="append", default=[], choices=peers.TOOLS, help="run these tools only")
    parser.add_argument("--cache", type=Path, default=Path("out/peers"), help="outcomes of peers are kept here")
    options = parser.parse_args(arguments)
    tools = [tool for tool in peers.TOOLS if not options.tool or tool in options.tool]
    options.cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="patterns_") as scratch:
        rows = measure(list(written(Path(scratch))), tools, options.cache)
    for row in rows:
        cells = "  ".join(f"{tool} {cell_text(row['tools'].get(tool))}" for tool in tools)
        print(f"{row['name']}: {cells}")
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(laid_out(merged(rows, peers.versions(), tools)))
    own = [row["tools"].get(peers.NORMFOLD, {"verdict": "-"}) for row in rows]
    return int(any(cell["verdict"] in {"wrong", "crash"} for cell in own))


if __name__ == "__main__":
    sys.exit(main())
