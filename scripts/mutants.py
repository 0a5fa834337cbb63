"""Delete each premise in turn, and see a test fail for each: ``make mutants``.

A mutant is the package without one guard: one entry of a rule's ``premises``, or one statement that refuses a lift, a
search step or a rewrite. Each is written to a folder of its own, and the tests of folding run against it. Prints a
table; exits with 1 if a mutant survives, that is, if no test needs the guard.

Give words to run only the mutants whose line in the table holds one of them: ``scripts/mutants.py not-output``.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src"
ROOMS = ("core/rules", "core", "backends/onnx")
TESTS = ("tests/backends/onnx", "tests/engine/test_driver.py", "tests/rules")
REFUSING = {"NotLifted", "Refusal"}
"""What a guard makes when it says no."""
SECONDS = 300.0
"""Longest run of the tests; a mutant that searches for ever is found out, too."""


@dataclass(frozen=True)
class Mutant:
    """The package without one guard: ``text`` is what its file becomes."""

    path: Path
    line: int
    premise: str
    text: str

    @property
    def place(self) -> str:
        """The guard's file and line, or its rule."""
        return f"{self.path.relative_to(SOURCE / 'normfold')}:{self.line}"


@dataclass(frozen=True)
class Verdict:
    """Which test found the mutant out, if any."""

    mutant: Mutant
    found_by: str | None


def mutants() -> Iterator[Mutant]:
    """Every mutant of the package."""
    for room in ROOMS:
        for path in sorted((SOURCE / "normfold" / room).rglob("*.py")):
            yield from mutants_of(path)


def mutants_of(path: Path) -> Iterator[Mutant]:
    """Every mutant of one file; each is cut out of a tree of its own."""
    text = path.read_text(encoding="utf-8")
    count = len(list(guards(ast.parse(text))))
    for index in range(count):
        tree = ast.parse(text)
        line, premise, cut = list(guards(tree))[index]
        cut()
        yield Mutant(path, line, premise, ast.unparse(ast.fix_missing_locations(tree)))


def guards(tree: ast.Module) -> Iterator[tuple[int, str, Any]]:
    """Line, premise and the way to delete it, of every guard in ``tree``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "premises" and isinstance(node.value, ast.Tuple):
            yield from entries(node.value)
        for block in (getattr(node, name, None) for name in ("body", "orelse")):
            if isinstance(block, list):
                yield from statements(node, block)


def entries(premises: ast.Tuple) -> Iterator[tuple[int, str, Any]]:
    """The entries of a rule's premises: ``("name", test)``."""
    for entry in premises.elts:
        if isinstance(entry, ast.Tuple) and isinstance(entry.elts[0], ast.Constant):
            yield entry.lineno, str(entry.elts[0].value), lambda entry=entry: premises.elts.remove(entry)


def statements(owner: ast.AST, block: list[ast.stmt]) -> Iterator[tuple[int, str, Any]]:
    """The statements of a block that refuse; what follows one in its block goes with it."""
    for index, statement in enumerate(block):
        premise = refusal(statement)
        if premise is None:
            continue
        chosen = next((n for n in ast.walk(statement) if isinstance(n, ast.IfExp) and makes_refusal(n.orelse)), None)
        if chosen is not None:
            yield statement.lineno, premise, lambda n=chosen: setattr(n, "orelse", ast.Constant(None))
        elif isinstance(owner, ast.If | ast.For) or isinstance(statement, ast.Raise) or wraps_refusal(statement):
            yield statement.lineno, premise, lambda index=index: block.__setitem__(slice(index, None), [ast.Pass()])


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
    return str(name.value) if isinstance(name, ast.Constant) else "constant"


def wraps_refusal(statement: ast.stmt) -> bool:
    """Whether a statement returns something made with a refusal, not the refusal itself."""
    return (
        isinstance(statement, ast.Return)
        and isinstance(statement.value, ast.Call)
        and not makes_refusal(statement.value)
    )


def makes_refusal(node: ast.AST) -> bool:
    """Whether ``node`` makes a refusal."""
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in REFUSING


def judge(mutant: Mutant) -> Verdict:
    """Run the tests against ``mutant``, those of its own rule first."""
    with tempfile.TemporaryDirectory(prefix="normfold-mutant-") as folder:
        shutil.copytree(SOURCE, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        (Path(folder) / mutant.path.relative_to(SOURCE)).write_text(mutant.text, encoding="utf-8")
        own = f"tests/rules/test_{mutant.path.stem}.py"
        found = failing_test(Path(folder), (own,)) if (ROOT / own).exists() else None
        return Verdict(mutant, found or failing_test(Path(folder)))


def failing_test(source: Path, tests: Sequence[str] = TESTS) -> str | None:
    """The first of ``tests`` that fails with the package in ``source``; ``None`` where all pass."""
    options = ["-x", "-q", "--no-header", "--tb=no", "-p", "no:cacheprovider", "-m", "not slow"]
    environment = {**os.environ, "PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", *options, *tests]
    try:
        run = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"more than {SECONDS:.0f} seconds"
    if run.returncode == 0:
        return None
    found = re.search(r"^(?:FAILED|ERROR) (.*?)(?: - |$)", run.stdout, re.MULTILINE)
    return found.group(1).removeprefix("tests/") if found else f"exit {run.returncode}"


def main(words: Sequence[str]) -> int:
    """Judge every mutant, or those that ``words`` pick."""
    chosen = [m for m in mutants() if not words or any(word in f"{m.place} {m.premise}" for word in words)]
    if (broken := failing_test(SOURCE)) is not None:
        print(f"the tests fail before anything is deleted: {broken}")
        return 1
    survivors = 0
    with ThreadPoolExecutor(max_workers=int(os.environ.get("WORKERS", "2"))) as pool:
        for verdict in pool.map(judge, chosen):
            survivors += verdict.found_by is None
            found = verdict.found_by or "SURVIVED"
            print(f"{verdict.mutant.premise:<24} {verdict.mutant.place:<52} {found}", flush=True)
    print(f"{len(chosen)} premises deleted, {survivors} not missed by any test")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
