"""Fail when a new model is slower than the old one: a gate for a CI job.

python examples/fail_if_slower.py [OLD NEW]; without arguments, the network inside the package and its folded self.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import normfold
from normfold.verbs.demo.network import network


def gate(old: Path, new: Path, effort: normfold.Effort) -> int:
    """Time ``new`` beside ``old``; 1 where it is slower by more than 2 %, beyond doubt."""
    result = normfold.compare(old, new, effort=effort)
    print(result)
    return int(result.slower)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        sys.exit(gate(Path(sys.argv[1]), Path(sys.argv[2]), normfold.Effort(details=False)))
    with network() as source, tempfile.TemporaryDirectory() as folder:
        folded = Path(folder) / "folded.onnx"
        normfold.fold(source, output=folded)
        brief = normfold.Effort(first=3, most=3, per_process=0.3, details=False)
        sys.exit(gate(source, folded, brief))
