"""An offset of all channels is one wherever they are moved to, all together."""

from __future__ import annotations

import numpy as np

from folding import Example, array, model
from routes import centring, refused_centring, sent

TOKENS = "float[2, 5, 3] x"


def test_past_a_transpose_and_back() -> None:
    body = [
        "h = MatMul(x, w)",
        "t = Transpose <perm = [0, 2, 1]> (h)",
        "b = Transpose <perm = [0, 2, 1]> (t)",
        "z = LayerNormalization(b, g)",
        "[last] y = Neg(h)",
    ]
    source = model(TOKENS, body, {"w": array(3, 4), "g": array(4)}, outputs="float[] y, float[] z")
    _, plan, failed = sent(source, "last", centring())
    assert plan is not None, failed
    assert plan.rules.count("carry_offset_through_move") == 2


def test_static_reshape() -> None:
    body = ["h = MatMul(x, w)", "r = Reshape(h, heads)", "z = LayerNormalization(r, g)", "[last] y = Neg(h)"]
    held = {"w": array(3, 4), "g": array(2), "heads": np.array([2, 5, 2, 2])}
    source = model(TOKENS, body, held, outputs="float[] y, float[] z")
    assert refused_centring(source) == {"single-use", "static-reshape"}


EXAMPLES = (
    Example(
        model(
            "float[2, 3] x",
            [
                "h = MatMul(x, w)",
                "[last] y = LayerNormalization(h, g)",
                "t = Unsqueeze(h, zero)",
                "z = LayerNormalization(t, g)",
            ],
            {"w": array(3, 4), "zero": np.array([0]), "g": array(4)},
            outputs="float[] y, float[] z",
        ),
        sends=("last", centring()),
    ),
)
