"""Every branch of a sum is centred."""

from __future__ import annotations

import pytest

from folding import Example, array, model
from routes import centring, proven_centring, refused_centring

TOKENS = "float[2, 5, 3] x"
HELD = {"w": array(3, 4), "u": array(3, 4, seed=1)}


@pytest.mark.parametrize("line", ["s = Add(a, b)", "s = Sub(a, b)"])
def test_every_branch(line: str) -> None:
    plan = proven_centring(model(TOKENS, ["a = MatMul(x, w)", "b = MatMul(x, u)", line, "[last] y = Neg(s)"], HELD))
    assert len(plan.into) == 2


def test_a_branch_may_be_broadcast_along_other_axes() -> None:
    body = ["a = MatMul(x, w)", "b = MatMul(z, u)", "s = Add(a, b)", "[last] y = Neg(s)"]
    proven_centring(model(f"{TOKENS}, float[1, 3] z", body, HELD))


def test_same_shape() -> None:
    body = ["a = MatMul(x, w)", "b = MatMul(x, u)", "s = Add(a, b)", "[last] y = Neg(s)"]
    assert refused_centring(model(TOKENS, body, {"w": array(3, 4), "u": array(3, 1)})) == {"same-shape"}


def test_half_a_way_is_no_way() -> None:
    body = ["a = MatMul(x, w)", "b = Exp(a)", "c = MatMul(x, u)", "s = Add(b, c)", "[last] y = Neg(s)"]
    assert refused_centring(model(TOKENS, body, HELD)) == {"linear-producer"}


EXAMPLES = (
    Example(
        model(
            TOKENS,
            ["a = MatMul(x, w)", "b = MatMul(x, u)", "s = Add(a, b)", "[last] y = LayerNormalization(s, g)"],
            {**HELD, "g": array(4)},
        ),
        sends=("last", centring()),
    ),
)
