"""Optimise a model within a budget of accuracy, and use what comes of it.

python examples/optimize_a_model.py; the network and its test pictures are those inside the package.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import onnxruntime

import normfold
from normfold.verbs.demo.network import network, pictures


def main(folder: Path) -> None:
    """Optimise the shipped network into ``folder``, and run the result."""
    images, digits = pictures()
    with network() as source:
        result = normfold.optimize(
            source,
            output=folder,
            evaluate={"x": images, "label": digits},
            metric="recall:7",
            max_drop=0.5,
            without=["tune"],
        )
    if result.refused is not None:
        sys.exit(f"{result.refused.code}: {result.refused.message}")
    print(result)
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    (scores,) = session.run(None, {"x": images[:1]})
    print(f"the first picture is a {scores.argmax()}, and should be a {digits[0]}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        main(Path(scratch))
