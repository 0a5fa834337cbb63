"""A linear operation writes channels whose mean is zero."""

from __future__ import annotations

import numpy as np
import pytest

from folding import Example, array, model
from routes import centring, proven_centring, refused_centring

IMAGE = "float[1, 3, 5, 5] x"
TOKENS = "float[2, 5, 3] x"


@pytest.mark.parametrize(
    ("inputs", "line", "held", "axis"),
    [
        (TOKENS, "h = MatMul(x, w)", {"w": array(3, 4)}, -1),
        ("float[2, 3] x", "h = Gemm <transB = 1> (x, w, c)", {"w": array(4, 3), "c": array(4)}, -1),
        (IMAGE, "h = Conv <pads = [1, 1, 1, 1]> (x, w, c)", {"w": array(4, 3, 3, 3), "c": array(4)}, -3),
        (IMAGE, "h = ConvTranspose(x, w)", {"w": array(3, 4, 2, 2)}, -3),
    ],
)
def test_into_each_linear_operation(inputs: str, line: str, held: dict[str, np.ndarray], axis: int) -> None:
    plan = proven_centring(model(inputs, [f"[linear] {line}", "[last] y = Neg(h)"], held), axis)
    assert len(plan.into) == 1


def test_one_group() -> None:
    body = ["h = Conv <group = 2> (x, w)", "[last] y = Neg(h)"]
    assert refused_centring(model("float[1, 6, 5, 5] x", body, {"w": array(4, 3, 1, 1)}), -3) == {"one-group"}


@pytest.mark.parametrize("axis", [-2, -3])
def test_per_output_channel(axis: int) -> None:
    body = ["h = Conv(x, w)", "[last] y = Neg(h)"]
    source = model(IMAGE, body, {"w": array(6, 3, 2, 2)})
    assert refused_centring(source, axis) == {"per-output-channel"}


def test_representable() -> None:
    """Two columns of the largest numbers of either sign have a mean that the type cannot be less by."""
    large = np.array([[6e4, -6e4, -6e4, -6e4]], np.float16)
    body = ["h = MatMul(x, w)", "[last] y = Neg(h)"]
    assert refused_centring(model("float16[2, 1] x", body, {"w": large})) == {"representable"}


def test_an_output_stays_as_it_is() -> None:
    body = ["h = MatMul(x, w)", "[last] y = Neg(h)"]
    source = model(TOKENS, body, {"w": array(3, 4)}, outputs="float[] y, float[] h")
    assert refused_centring(source) == {"not-output"}


def test_a_reader_that_would_see_the_mean_missing() -> None:
    body = ["h = MatMul(x, w)", "[last] y = Neg(h)", "z = Exp(h)"]
    source = model(TOKENS, body, {"w": array(3, 4)}, outputs="float[] y, float[] z")
    assert refused_centring(source) == {"single-use", "linear-consumer"}


EXAMPLES = (
    Example(
        model(
            TOKENS,
            ["h = MatMul(x, w)", "[last] y = LayerNormalization(h, g)"],
            {"w": array(3, 4), "g": array(4)},
        ),
        sends=("last", centring()),
    ),
)
