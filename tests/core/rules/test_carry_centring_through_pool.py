"""Channels whose mean is subtracted before an average over positions have the mean zero behind it."""

from __future__ import annotations

import pytest

from folding import Example, array, model
from routes import centring, proven_centring, refused_centring

TOKENS = "float[2, 5, 3] x"
IMAGE = "float[1, 3, 6, 6] x"


@pytest.mark.parametrize(
    ("inputs", "body", "axis"),
    [
        (TOKENS, ["h = MatMul(x, w)", "p = ReduceMean <axes = [1]> (h)"], -1),
        (TOKENS, ["h = MatMul(x, w)", "p = ReduceMean <axes = [1], keepdims = 0> (h)"], -1),
        (IMAGE, ["h = Conv(x, k)", "p = GlobalAveragePool(h)"], -3),
        # Zeros that are averaged in have the mean zero, too.
        (IMAGE, ["h = Conv(x, k)", "p = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (h)"], -3),
    ],
)
def test_past_an_average(inputs: str, body: list[str], axis: int) -> None:
    held = {"w": array(3, 4)} if "MatMul" in body[0] else {"k": array(4, 3, 1, 1)}
    plan = proven_centring(model(inputs, [*body, "[last] y = Neg(p)"], held, opset=17), axis)
    assert "carry_centring_through_pool" in plan.rules


def test_averages() -> None:
    body = ["h = Conv(x, k)", "p = GlobalMaxPool(h)", "[last] y = Neg(p)"]
    assert refused_centring(model(IMAGE, body, {"k": array(4, 3, 1, 1)}), -3) == {"averages"}


def test_not_pooled_axis() -> None:
    body = ["h = MatMul(x, w)", "p = ReduceMean <axes = [2]> (h)", "[last] y = Neg(p)"]
    assert refused_centring(model(TOKENS, body, {"w": array(3, 4)}, opset=17)) == {"not-pooled-axis"}


EXAMPLES = (
    Example(
        model(
            "float[2, 5, 3] x",
            ["h = MatMul(x, w)", "p = ReduceMean <axes = [1]> (h)", "[last] y = LayerNormalization(p, g)"],
            {"w": array(3, 4), "g": array(4)},
            opset=17,
        ),
        sends=("last", centring()),
    ),
)
