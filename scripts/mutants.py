"""Switch each guard off in turn, and see a test fail for each: ``make mutants``.

A mutant is the package without one guard: without one premise of a rule, without one condition of the structure that a
rewrite looks for, or without one statement that refuses in a search, the driver or the lifts of a backend. One copy of
the package holds a switch at every guard (`switches.py`). The tests run once with all of them on, which tells the tests
in which a guard bites: no other test can miss it. Those run again with the guard off, the fastest first, until one
fails. Prints a table; exits with 1 if a mutant survives that is not listed in `EQUIVALENT`, that is, if no test needs
the guard.

Give words to run only the mutants whose line in the table holds one of them: ``scripts/mutants.py not-output``,
``scripts/mutants.py core/rules``. WORKERS in the environment says how many run at a time.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from normfold.core.rules import RULES

ROOT: Final = Path(__file__).resolve().parents[1]
SOURCE: Final = ROOT / "src"
PACKAGE: Final = SOURCE / "normfold"
ROOMS: Final = (
    "core/search.py",
    "core/driver.py",
    "core/streams.py",
    "core/conditions.py",
    "core/rules",
    "backends/onnx/graph.py",
    "backends/onnx/lift",
    "backends/onnx/norms",
    "backends/torch/graph.py",
    "backends/torch/lift",
    "backends/torch/program.py",
    "backends/torch/making.py",
    "backends/torch/replacing.py",
    "backends/torch/computed.py",
    "backends/torch/weight_norms.py",
    "backends/torch/tree.py",
    "passes/convert",
)
"""Where guards are."""
TESTS: Final = ("tests/core", "tests/backends", "tests/passes", "tests/pipeline")
"""What may need them."""
REFUSING: Final = {"NotLifted", "Refusal", "_RefusedError"}
"""What a guard makes when it says no."""

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

SWITCHES: Final = Path(__file__).with_name("switches.py")
"""The module that a mutated package has in addition."""


@dataclass(frozen=True)
class Mutant:
    """The package with guard ``number`` off: ``home`` is the file that holds it, ``where`` its function or rule."""

    number: int
    home: Path
    where: str
    guard: str

    @property
    def name(self) -> str:
        """The guard's file, its function or rule, and what it guards: the same whatever stands above it."""
        return f"{self.home.relative_to(PACKAGE)} {self.where} {self.guard}"


@dataclass(frozen=True)
class Guard:
    """One guard in a tree: the function that it stands in, what it guards, and how to put a switch there."""

    where: str
    guard: str
    switch: Callable[[int], object]


def mutants(into: Path | None = None) -> list[Mutant]:
    """Every mutant of the package; a package with the switches is written to the folder ``into``."""
    made: list[Mutant] = []
    for path in sorted(file for room in ROOMS for file in files_of(PACKAGE / room)):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found = list(guards(tree))
        seen: dict[str, int] = {}
        first = len(made)
        for number, guard in enumerate(found, first):
            name = f"{guard.where} {guard.guard}"
            seen[name] = seen.get(name, 0) + 1
            count = f" ({seen[name]})" if seen[name] > 1 else ""
            made.append(Mutant(number, path, guard.where, guard.guard + count))
        if into is not None and found:
            for number, guard in reversed(list(enumerate(found, first))):
                guard.switch(number)
            text = IMPORT.join(ast.unparse(ast.fix_missing_locations(tree)).partition(FUTURE)[::2])
            (into / path.relative_to(SOURCE)).write_text(text, encoding="utf-8")
    premises = list(premises_of_rules(len(made)))
    if into is not None:
        switch_premises(into / "normfold" / "core" / "rules" / "__init__.py", premises)
        shutil.copy(SWITCHES, into / "normfold")
    return [*made, *premises]


FUTURE: Final = "from __future__ import annotations\n"
IMPORT: Final = f"{FUTURE}from normfold import switches\n"


def files_of(path: Path) -> list[Path]:
    """The Python files in a folder, or the one that ``path`` is."""
    return sorted(path.rglob("*.py")) if path.is_dir() else [path]


def premises_of_rules(first: int) -> Iterator[Mutant]:
    """Every rule without one of its premises, wherever it takes them from."""
    for rule in RULES:
        for premise, _ in rule.premises:
            yield Mutant(first, PACKAGE / "core" / "rules" / f"{rule.name}.py", "RULE", premise)
            first += 1


def switch_premises(path: Path, premises: Sequence[Mutant]) -> None:
    """Put a switch at the tests of all rules' premises, which come as the rules and their premises do."""
    path.write_text(
        f"{path.read_text(encoding='utf-8')}\n"
        "from normfold import switches\n"
        "def _switched(number, test):\n"
        "    return lambda asked: switches.guard(number, test(asked), None)\n"
        f"_numbers = iter(range({premises[0].number}, {premises[-1].number + 1}))\n"
        "for _rule in RULES:\n"
        "    _switches = tuple((name, _switched(next(_numbers), test)) for name, test in _rule.premises)\n"
        "    object.__setattr__(_rule, 'premises', _switches)\n",
        encoding="utf-8",
    )


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
            without = isinstance(node.test.op, ast.And)
            for index, operand in enumerate(node.test.values):
                put = partial(node.test.values.__setitem__, index)
                yield Guard(function.name, ast.unparse(operand), partial(switch, put, operand, without))
        else:
            passes = not isinstance(node.body[0], ast.Return)
            put = partial(setattr, node, "test")
            yield Guard(function.name, ast.unparse(node.test), partial(switch, put, node.test, passes))


def switch(put: Callable[[ast.expr], object], value: ast.expr, without: object, number: int) -> None:
    """Put a switch where ``value`` stands, which is ``without`` when off."""
    put(ast.parse(f"switches.guard({number}, {ast.unparse(value)}, {without})", mode="eval").body)


def statements(function: str, owner: ast.AST, block: list[ast.stmt]) -> Iterator[Guard]:
    """The statements of a block that refuse; what follows one in its block goes with it."""
    for index, statement in enumerate(block):
        premise = refusal(statement)
        if premise is None:
            continue
        chosen = next((n for n in ast.walk(statement) if isinstance(n, ast.IfExp) and makes_refusal(n.orelse)), None)
        if chosen is not None:
            yield Guard(function, premise, partial(switch_choice, chosen))
        elif isinstance(owner, ast.If | ast.For) or isinstance(statement, ast.Raise | ast.Return):
            yield Guard(function, premise, partial(switch_rest, block, index))


def switch_choice(chosen: ast.IfExp, number: int) -> None:
    """Make a choice between something and a refusal one between something and nothing, when off."""
    chosen.orelse = ast.IfExp(test=asked(number), body=chosen.orelse, orelse=ast.Constant(None))


def switch_rest(block: list[ast.stmt], index: int, number: int) -> None:
    """Leave out the rest of a block, when off."""
    block[index:] = [ast.If(test=asked(number), body=block[index:], orelse=[])]


def asked(number: int) -> ast.expr:
    """The question whether a guard is on."""
    return ast.parse(f"switches.guard({number})", mode="eval").body


def refusal(statement: ast.stmt) -> str | None:
    """The premise that a simple statement refuses by."""
    if not isinstance(statement, ast.Raise | ast.Return | ast.Expr):
        return None
    if isinstance(statement, ast.Return) and any(
        isinstance(node, ast.Name) and node.id == "OVERRIDABLE" for node in ast.walk(statement)
    ):
        return "not-overridable"
    made = [node for node in ast.walk(statement) if isinstance(node, ast.Call) and makes_refusal(node)]
    names = (name.id for node in made for name in node.args[:1] if isinstance(name, ast.Name))
    return next(names, "given").replace("_", "-").lower() if made else None


def makes_refusal(node: ast.AST) -> bool:
    """Whether ``node`` makes a refusal."""
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in REFUSING


def verdicts(package: Path, numbers: Sequence[int]) -> Iterator[tuple[int, str | None]]:
    """For each guard, the test that finds it off: empty where none does, ``None`` where it bites in none.

    A line for guard -1 names a test that fails before anything is switched off, which judges no guard then.
    """
    options = ["-q", "-p", "no:cacheprovider", "-m", "not slow", "-p", "normfold.switches"]
    source, sink = os.pipe()
    environment = {"NORMFOLD_GUARDS": json.dumps(numbers), "NORMFOLD_VERDICTS": str(sink), "PYTHONPATH": str(package)}
    command = [sys.executable, "-m", "pytest", *options, *TESTS]
    with subprocess.Popen(
        command, cwd=ROOT, env=os.environ | environment, stdout=subprocess.DEVNULL, pass_fds=[sink]
    ) as run:
        os.close(sink)
        with os.fdopen(source) as lines:
            yield from (tuple(json.loads(line)) for line in lines)
    if run.returncode not in {0, 1}:
        yield -1, f"exit {run.returncode}"


def main(words: Sequence[str]) -> int:
    """Judge every mutant, or those that ``words`` pick."""
    with tempfile.TemporaryDirectory(prefix="normfold-mutants-") as folder:
        shutil.copytree(SOURCE, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        made = mutants(Path(folder))
        chosen = {m.number: m for m in made if not words or any(word in m.name for word in words)}
        survivors = failing = 0
        for number, found in verdicts(Path(folder), list(chosen)):
            if number not in chosen:
                failing += 1
                print(f"fails before anything is switched off: {found}", flush=True)
                continue
            mutant = chosen[number]
            reason = EQUIVALENT.get(mutant.name)
            survivors += not found and reason is None
            lost = "SURVIVED: bites in no test" if found is None else "SURVIVED"
            verdict = (found or "").removeprefix("tests/") or reason or lost
            print(f"{mutant.name:<90} {verdict}", flush=True)
    print(f"{len(chosen)} guards switched off, {survivors} not missed by any test")
    return 1 if survivors or failing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
