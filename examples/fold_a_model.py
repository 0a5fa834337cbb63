"""Fold a model, say what became of each norm, and save the result.

python examples/fold_a_model.py [MODEL OUT]; without arguments, the network inside the package.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import onnx

import normfold
from normfold.verbs.demo.network import network


def fold(source: Path, target: Path) -> None:
    """Fold ``source`` into ``target`` and print one line for each norm."""
    result = normfold.fold(onnx.load(source))
    for decision in result.decisions:
        why = "; ".join(f"{refusal.premise}: {refusal.because}" for refusal in decision.refused_by)
        print(f"{decision.outcome:12} {decision.site:48} {', '.join(decision.into) or why}")
    print(f"{result.verification.status}, largest relative difference {result.verification.max_rel}")
    onnx.save(result.model, target)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        fold(Path(sys.argv[1]), Path(sys.argv[2]))
    else:
        with network() as source, tempfile.TemporaryDirectory() as folder:
            fold(source, Path(folder) / "folded.onnx")
