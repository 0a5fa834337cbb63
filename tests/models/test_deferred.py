"""Deferred imports: nothing is loaded before it is used, and then it is the real thing."""

from __future__ import annotations

import subprocess
import sys

import pytest

import normfold

PROGRAM = """
import sys
from normfold.models.deferred import deferring
with deferring("colorsys"):
    import colorsys
    table = {"convert": colorsys.rgb_to_hls}
assert "ONE_THIRD" not in vars(colorsys), "nothing is loaded yet"
assert table["convert"](1.0, 0.0, 0.0) == (0.0, 0.5, 1.0)
assert colorsys.ONE_THIRD == 1 / 3
import colorsys as again
assert again.ONE_THIRD == 1 / 3
with deferring("no_such_module_at_all"):
    pass
assert "no_such_module_at_all" not in sys.modules
"""


def test_a_deferred_module_loads_when_used() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


QUICK = """
import sys
import normfold
{statement}
import onnx_ir
assert "sympy.core" not in sys.modules, "sympy is loaded"
assert onnx_ir.__loader__ is onnx_ir.__spec__.loader
assert type(onnx_ir.__loader__).__name__ == "SourceFileLoader"
assert str(onnx_ir.SymbolicDim("N") + 1) == "N + 1"
assert "sympy.core" in sys.modules
"""


@pytest.mark.parametrize("name", ["", "DiffersError", "convert", "export", "fold", "inspect", "verify"])
def test_onnx_ir_loads_without_sympy_whatever_imports_it_first(name: str) -> None:
    assert not name or name in normfold.__all__
    program = QUICK.format(statement=f"normfold.{name}" if name else "pass")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
