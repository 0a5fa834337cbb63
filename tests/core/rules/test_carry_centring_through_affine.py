"""Constants that are added have the mean zero as well."""

from __future__ import annotations

import numpy as np
import pytest

from folding import Example, array, model
from routes import centring, proven_centring, refused_centring

TOKENS = "float[2, 5, 3] x"


@pytest.mark.parametrize(
    ("line", "held"),
    [
        ("a = Add(h, t)", {"t": array(5, 4)}),
        ("a = Add(h, t)", {"t": array(4)}),
        ("a = Add(h, t)", {"t": np.float32(3)}),
        ("a = Sub(h, t)", {"t": array(4)}),
        ("a = Mul(h, t)", {"t": np.float32(-3)}),
        ("a = Mul(h, t)", {"t": array(5, 1)}),
        ("a = Neg(h)", {}),
    ],
)
def test_past_arithmetic_by_constants(line: str, held: dict[str, np.ndarray]) -> None:
    body = ["h = MatMul(x, w)", line, "[last] y = Neg(a)"]
    proven_centring(model(TOKENS, body, {"w": array(3, 4), **held}))


def test_uniform_scale() -> None:
    body = ["h = MatMul(x, w)", "a = Mul(h, t)", "[last] y = Neg(a)"]
    assert refused_centring(model(TOKENS, body, {"w": array(3, 4), "t": array(4)})) == {"uniform-scale"}


def test_room() -> None:
    body = ["h = MatMul(x, w)", "a = Sub(t, h)", "[last] y = Neg(a)"]
    assert refused_centring(model(TOKENS, body, {"w": array(3, 4), "t": array(4)})) == {"room"}


def test_representable() -> None:
    body = ["h = MatMul(x, w)", "a = Add(h, t)", "[last] y = Neg(a)"]
    held = {"w": array(3, 4, dtype=np.float16), "t": np.array([6e4, -6e4, -6e4, -6e4], np.float16)}
    assert refused_centring(model("float16[2, 5, 3] x", body, held)) == {"representable"}


EXAMPLES = (
    Example(
        model(
            TOKENS,
            ["h = MatMul(x, w)", "a = Add(h, t)", "[last] y = LayerNormalization(a, g)"],
            {"w": array(3, 4), "t": array(5, 4), "g": array(4)},
        ),
        sends=("last", centring()),
    ),
)
