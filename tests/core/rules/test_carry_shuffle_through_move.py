"""The channels are followed to the axis where they are afterwards."""

from __future__ import annotations

import numpy as np

from folding import Example, array, model, proven_fold
from routes import sent, shuffle

ORDER = np.array([2, 0, 1])
SWAP = "[swap] g = Gather <axis = 1> (x, p)"
IMAGE = "float[2, 3, 5, 5] x"


def test_past_a_transpose() -> None:
    body = [SWAP, "t = Transpose <perm = [0, 2, 3, 1]> (g)", "y = MatMul (t, w)"]
    assert proven_fold(model(IMAGE, body, {"p": ORDER, "w": array(3, 4)})).operators == ["Transpose", "MatMul"]


def test_past_a_reshape_and_into_every_part_of_a_split() -> None:
    body = [
        SWAP,
        "r = Reshape (g, rows)",
        "c, d = Split <axis = 2> (r)",
        "y = MatMul (w, c)",
        "z = MatMul (w, d)",
    ]
    held = {"p": ORDER, "rows": np.array([2, 3, 24]), "w": array(4, 3)}
    source = model("float[2, 3, 4, 6] x", body, held, outputs="float[] y, float[] z")
    assert "Gather" not in proven_fold(source).operators


def test_static_reshape() -> None:
    """Each channel would be found at many places of the new axis."""
    body = [SWAP, "f = Flatten (g)", "y = MatMul (f, w)"]
    source = model(IMAGE, body, {"p": ORDER, "w": array(75, 4)})
    assert "Gather" in proven_fold(source).operators
    _, plan, failed = sent(source, "swap", shuffle)
    assert plan is None
    assert failed == {"static-reshape"}


EXAMPLES = (
    Example(
        model(
            IMAGE,
            [SWAP, "t = Transpose <perm = [0, 2, 3, 1]> (g)", "y = MatMul (t, w)"],
            {"p": ORDER, "w": array(3, 4)},
        )
    ),
)
