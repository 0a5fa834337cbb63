"""Small promises about the source text."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "src").rglob("*.py"))
MAX_LINES = 500
MAX_BODY = 60
MAX_SUPPRESSIONS = 1.5
"""For each 1,000 lines: comments that silence a checker, and rules that the configuration ignores for a folder."""
SUPPRESSION = re.compile(r"#\s*(?:noqa|type:\s*ignore|pragma)")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_fits_in_the_head(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


def bodies(path: Path) -> Iterator[tuple[str, int]]:
    """The functions of a module, each with the number of lines behind its docstring."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            yield node.name, (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_function_fits_on_a_screen(path: Path) -> None:
    assert {name: lines for name, lines in bodies(path) if lines > MAX_BODY} == {}


def test_checkers_are_rarely_silenced() -> None:
    texts = [path.read_text(encoding="utf-8") for path in FILES]
    configured = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["ruff"]["lint"]
    ignored = [codes for folder, codes in configured["per-file-ignores"].items() if folder.startswith("src")]
    count = sum(len(SUPPRESSION.findall(text)) for text in texts) + sum(map(len, ignored))
    assert count <= MAX_SUPPRESSIONS * sum(len(text.splitlines()) for text in texts) / 1000


def test_the_makefile_describes_its_targets() -> None:
    """``make`` lists what can be made, and the README names no target that is not there."""
    listed = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    targets = {line.split()[0] for line in listed.splitlines() if line.startswith("  ")}
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert phony
    assert set(phony.group(1).split()) == targets
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", readme, re.MULTILINE)) <= targets


def test_ci_runs_what_the_readme_names() -> None:
    command = (ROOT / ".ci" / "run").read_text(encoding="utf-8").strip().splitlines()[-1]
    assert command in (ROOT / "README.md").read_text(encoding="utf-8")
