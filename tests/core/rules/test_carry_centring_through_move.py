"""The channels that are centred are followed to where they were."""

from __future__ import annotations

import numpy as np

from folding import Example, array, model
from routes import centring, proven_centring, refused_centring

TOKENS = "float[2, 5, 3] x"


def test_past_a_transpose() -> None:
    body = ["h = MatMul(x, w)", "t = Transpose <perm = [0, 2, 1]> (h)", "[last] y = Neg(t)"]
    proven_centring(model(TOKENS, body, {"w": array(3, 4)}), axis=-2)


def test_past_a_slice_of_positions_and_a_reshape() -> None:
    body = ["h = MatMul(x, w)", "c = Slice(h, zero, two, one)", "r = Reshape(c, rows)", "[last] y = Neg(r)"]
    held = {"w": array(3, 4), "zero": np.array([0]), "two": np.array([2]), "one": np.array([1])}
    proven_centring(model(TOKENS, body, {**held, "rows": np.array([4, 4])}))


def test_static_reshape() -> None:
    body = ["h = MatMul(x, w)", "c = Slice(h, zero, four, two)", "[last] y = Neg(c)"]
    held = {"w": array(3, 8), "zero": np.array([0]), "four": np.array([4]), "two": np.array([2])}
    assert refused_centring(model(TOKENS, body, held)) == {"static-reshape"}


EXAMPLES = (
    Example(
        model(
            "float[2, 3] x",
            ["h = MatMul(x, w)", "t = Unsqueeze(h, zero)", "[last] y = LayerNormalization(t, g)"],
            {"w": array(3, 4), "zero": np.array([0]), "g": array(4)},
        ),
        sends=("last", centring()),
    ),
)
