"""Delete each premise in turn, and see a test fail for each: ``make mutants``.

A mutant is the package without one guard: without one premise of a rule, without one condition of the structure that a
rewrite looks for, or without one statement that refuses in a search, the driver or the lifts of a backend. Each is
written to a folder of its own, and tests run against it until one fails: first the rule's own, then those that speak of
the premise, then those of the room. Prints a table; exits with 1 if a mutant survives that is not listed in
`EQUIVALENT`, that is, if no test needs the guard.

Give words to run only the mutants whose line in the table holds one of them: ``scripts/mutants.py not-output``,
``scripts/mutants.py core/rules``. WORKERS in the environment says how many run at a time.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from normfold.core.rules import RULES

ROOT: Final = Path(__file__).resolve().parents[1]
SOURCE: Final = ROOT / "src"
PACKAGE: Final = SOURCE / "normfold"
ONNX: Final = ("tests/backends/onnx", "tests/core/rules", "tests/core")
TORCH: Final = ("tests/backends/torch", "tests/backends/test_shared_cases.py")
ROOMS: Final[dict[str, Sequence[str]]] = {
    "core/rules": (*ONNX, *TORCH),
    "core/search.py": (*ONNX, *TORCH),
    "core/driver.py": (*ONNX, *TORCH),
    "core/streams.py": ("tests/core/test_streams.py", "tests/backends/torch/test_streams.py"),
    "backends/onnx/graph.py": ONNX,
    "backends/onnx/lift": ONNX,
    "backends/onnx/norms": ONNX,
    "backends/torch/graph.py": TORCH,
    "backends/torch/lift": TORCH,
    "backends/torch/program.py": TORCH,
    "backends/torch/replacing.py": TORCH,
    "backends/torch/tree.py": TORCH,
}
"""Where guards are, and the tests that may need them."""
REFUSING: Final = {"NotLifted", "Refusal"}
"""What a guard makes when it says no."""
SECONDS: Final = 300.0
"""Longest run of the few tests that come first: a mutant that searches for ever is found out, too."""

EQUIVALENT: Final[dict[str, str]] = {
    "core/rules/fold_shift_into_producer.py _places view.holds_scale": (
        "what can hold a scale is a norm, and every norm was asked for a way out before"
    ),
    "core/rules/fold_shift_into_producer.py _places not view.affine.shifts": (
        "an addition of zeros is gone before, or folded with the same result"
    ),
    "core/rules/merge_parallel_branches.py _places _is_inner(graph, root)": (
        "saves time: the outer sum has the terms of the inner one, too"
    ),
    "core/rules/merge_parallel_branches.py _places host.window is not None": (
        "without a window nothing has a place in it, as same-window says then"
    ),
}
"""Mutants that no test can tell from the package, each with the reason."""


@dataclass(frozen=True)
class Mutant:
    """The package without one guard: ``text`` is what ``path`` becomes, ``home`` the file that holds the guard."""

    path: Path
    text: str
    home: Path
    where: str
    guard: str

    @property
    def name(self) -> str:
        """The guard's file, its function or rule, and what it guards: the same whatever stands above it."""
        return f"{self.home.relative_to(PACKAGE)} {self.where} {self.guard}"


@dataclass(frozen=True)
class Guard:
    """One guard in a tree: the function that it stands in, what it guards, and how to cut it out."""

    where: str
    guard: str
    cut: Callable[[], object]


def mutants() -> Iterator[Mutant]:
    """Every mutant of the package."""
    yield from premises_of_rules()
    for room in ROOMS:
        path = PACKAGE / room
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            yield from mutants_of(file)


def premises_of_rules() -> Iterator[Mutant]:
    """Every rule without one of its premises, wherever it takes them from."""
    path = PACKAGE / "core" / "rules" / "__init__.py"
    text = path.read_text(encoding="utf-8")
    for rule in RULES:
        for index, (premise, _) in enumerate(rule.premises):
            rest = f"{rule.name}.RULE.premises[:{index}] + {rule.name}.RULE.premises[{index + 1}:]"
            without = f'{text}\nobject.__setattr__({rule.name}.RULE, "premises", {rest})\n'
            yield Mutant(path, without, path.parent / f"{rule.name}.py", "RULE", premise)


def mutants_of(path: Path) -> Iterator[Mutant]:
    """Every mutant of one file; each is cut out of a tree of its own."""
    text = path.read_text(encoding="utf-8")
    seen: dict[str, int] = {}
    for index in range(len(list(guards(ast.parse(text))))):
        tree = ast.parse(text)
        found = list(guards(tree))[index]
        found.cut()
        name = f"{found.where} {found.guard}"
        seen[name] = seen.get(name, 0) + 1
        number = f" ({seen[name]})" if seen[name] > 1 else ""
        yield Mutant(path, ast.unparse(ast.fix_missing_locations(tree)), path, found.where, found.guard + number)


def guards(tree: ast.Module) -> Iterator[Guard]:
    """Every guard in ``tree``, function by function."""
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef):
            continue
        if function.name == "_places":
            yield from structure(function)
        for node in ast.walk(function):
            for block in (getattr(node, name, None) for name in ("body", "orelse")):
                if isinstance(block, list):
                    yield from statements(function.name, node, block)


def structure(function: ast.FunctionDef) -> Iterator[Guard]:
    """The conditions of the structure that a rewrite looks for: each operand, or the whole where there is one only."""
    for node in ast.walk(function):
        if not isinstance(node, ast.If):
            continue
        if isinstance(node.test, ast.BoolOp):
            for operand in node.test.values:
                text = ast.unparse(operand)
                yield Guard(function.name, text, lambda test=node.test, operand=operand: test.values.remove(operand))
        else:
            passes = not isinstance(node.body[0], ast.Return)
            text = ast.unparse(node.test)
            yield Guard(function.name, text, lambda n=node, to=passes: setattr(n, "test", ast.Constant(to)))


def statements(function: str, owner: ast.AST, block: list[ast.stmt]) -> Iterator[Guard]:
    """The statements of a block that refuse; what follows one in its block goes with it."""
    for index, statement in enumerate(block):
        premise = refusal(statement)
        if premise is None:
            continue
        chosen = next((n for n in ast.walk(statement) if isinstance(n, ast.IfExp) and makes_refusal(n.orelse)), None)
        if chosen is not None:
            yield Guard(function, premise, lambda n=chosen: setattr(n, "orelse", ast.Constant(None)))
        elif isinstance(owner, ast.If | ast.For) or isinstance(statement, ast.Raise | ast.Return):
            yield Guard(function, premise, lambda index=index: block.__setitem__(slice(index, None), [ast.Pass()]))


def refusal(statement: ast.stmt) -> str | None:
    """The premise that a simple statement refuses by."""
    if not isinstance(statement, ast.Raise | ast.Return | ast.Expr):
        return None
    if isinstance(statement, ast.Return) and any(
        isinstance(node, ast.Name) and node.id == "OVERRIDABLE" for node in ast.walk(statement)
    ):
        return "not-overridable"
    made = next((node for node in ast.walk(statement) if makes_refusal(node)), None)
    if not isinstance(made, ast.Call):
        return None
    name = made.args[0] if made.args else None
    return name.id.replace("_", "-").lower() if isinstance(name, ast.Name) else "given"


def makes_refusal(node: ast.AST) -> bool:
    """Whether ``node`` makes a refusal."""
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in REFUSING


def judge(mutant: Mutant) -> str | None:
    """The test that finds ``mutant`` out, if any."""
    with tempfile.TemporaryDirectory(prefix="normfold-mutant-") as folder:
        shutil.copytree(SOURCE, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        (Path(folder) / mutant.path.relative_to(SOURCE)).write_text(mutant.text, encoding="utf-8")
        for tests, seconds in rounds(mutant):
            if (found := failing_test(Path(folder), tests, seconds)) is not None:
                return found
        return None


def rounds(mutant: Mutant) -> Iterator[tuple[Sequence[str], float | None]]:
    """The tests to run one after another, and for how long at most: the fewest that are likely to fail first."""
    room = next(tests for room, tests in ROOMS.items() if mutant.home.is_relative_to(PACKAGE / room))
    own = ROOT / "tests" / "core" / "rules" / f"test_{mutant.home.stem}.py"
    if own.exists():
        yield [str(own)], SECONDS
    premise = mutant.guard.partition(" ")[0]
    files = [file for tests in room for file in files_of(ROOT / tests)]
    speaking = [str(file) for file in files if f'"{premise}"' in file.read_text(encoding="utf-8")]
    if speaking:
        yield speaking, SECONDS
    yield room, None


def files_of(path: Path) -> list[Path]:
    """The test files directly in a folder, or the one that ``path`` is."""
    return sorted(path.glob("*.py")) if path.is_dir() else [path]


def failing_test(source: Path, tests: Sequence[str], seconds: float | None = None) -> str | None:
    """The first of ``tests`` that fails with the package in ``source``, or takes too long; ``None`` where all pass."""
    options = ["-x", "-q", "--no-header", "--tb=no", "-p", "no:cacheprovider", "-m", "not slow"]
    environment = {**os.environ, "PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", *options, *tests]
    try:
        run = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        return f"more than {seconds:.0f} seconds"
    if run.returncode == 0:
        return None
    found = re.search(r"^(?:FAILED|ERROR) (.*?)(?: - |$)", run.stdout, re.MULTILINE)
    return found.group(1).removeprefix("tests/") if found else f"exit {run.returncode}"


def main(words: Sequence[str]) -> int:
    """Judge every mutant, or those that ``words`` pick."""
    chosen = [m for m in mutants() if not words or any(word in m.name for word in words)]
    tests = sorted({test for mutant in chosen for test in next(iter(rounds(mutant)))[0]})
    if (broken := failing_test(SOURCE, tests)) is not None:
        print(f"the tests fail before anything is deleted: {broken}")
        return 1
    survivors = 0
    with ThreadPoolExecutor(max_workers=int(os.environ.get("WORKERS", "2"))) as pool:
        for mutant, found in zip(chosen, pool.map(judge, chosen), strict=True):
            reason = EQUIVALENT.get(mutant.name)
            survivors += found is None and reason is None
            print(f"{mutant.name:<90} {found or reason or 'SURVIVED'}", flush=True)
    print(f"{len(chosen)} guards deleted, {survivors} not missed by any test")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
