"""Deferred imports: nothing is loaded before it is used, and then it is the real thing."""

from __future__ import annotations

import subprocess
import sys

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
