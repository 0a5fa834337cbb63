"""Importing the package or its command line is instant: nothing heavy comes along, and nothing imports in circles."""

from __future__ import annotations

import subprocess
import sys
from graphlib import TopologicalSorter

import pytest

HEAVY = ("numpy", "onnx", "onnx_ir", "onnxruntime", "torch", "rich")


def loaded_by(statement: str) -> set[str]:
    """Top-level modules present after a statement in a fresh interpreter."""
    code = f"import sys; {statement}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return set(run.stdout.split())


@pytest.mark.parametrize("module", ["normfold", "normfold.cli", "normfold.errors", "normfold.records"])
def test_import_brings_nothing_heavy(module: str) -> None:
    assert loaded_by(f"import {module}").isdisjoint(HEAVY)


def test_help_brings_nothing_heavy() -> None:
    code = "from normfold.cli.application import run; run(['--help'])"
    assert loaded_by(
        f"import io, contextlib; contextlib.redirect_stdout(io.StringIO()).__enter__(); {code}; "
        "sys.stdout = sys.__stdout__"
    ).isdisjoint(HEAVY)


def test_no_import_cycle_lazy_imports_included() -> None:
    """Imports for the type checker alone do not count, they never run; nor does the package itself.

    Python runs the package before any module in it, and it loads the verbs when one is first used.
    """
    grimp = pytest.importorskip("grimp")
    graph = grimp.build_graph("normfold", exclude_type_checking_imports=True, cache_dir=None)
    graph.remove_module("normfold")
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    assert len(list(TopologicalSorter(imports).static_order())) == len(graph.modules)
