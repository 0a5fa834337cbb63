"""Rows of a table whose mean is zero."""

from __future__ import annotations

import numpy as np
import pytest

from folding import Example, array, model
from routes import centring, proven_centring, refused_centring

INDICES = "int64[2, 5] i"
LOOKUP = "h = Gather(e, i)"


def test_into_a_table() -> None:
    plan = proven_centring(model(INDICES, [LOOKUP, "[last] y = Neg(h)"], {"e": array(7, 4)}))
    assert plan.rules == ("fold_centring_into_embedding",)


def test_into_a_row_that_is_repeated() -> None:
    held = {"token": array(1, 1, 4), "shape": np.array([3, 1, 4])}
    body = ["h = Expand(token, shape)", "c = Concat <axis = 1> (h, x)", "[last] y = Neg(x)", "z = Neg(c)"]
    source = model("float[3,2,4] x", body, held, outputs="float[] y, float[] z")
    assert refused_centring(source) == {"linear-producer"}
    plan = proven_centring(
        model(
            "float[1] x",
            ["h = Expand(token, shape)", "[last] y = Neg(h)", "z = Neg(x)"],
            held,
            outputs="float[] y, float[] z",
        )
    )
    assert plan.rules == ("fold_centring_into_embedding",)


@pytest.mark.parametrize(("held", "axis"), [(array(7, 4), -2), (array(7, 3), -1)])
def test_per_output_channel(held: np.ndarray, axis: int) -> None:
    source = model(INDICES.replace("5", "4"), [LOOKUP, "[last] y = Neg(h)"], {"e": held})
    assert refused_centring(source, axis) == {"per-output-channel"}


def test_representable() -> None:
    large = np.array([[6e4, -6e4, -6e4, -6e4]], np.float16)
    source = model(INDICES, [LOOKUP, "[last] y = Neg(h)"], {"e": large}, outputs="float16[] y")
    assert refused_centring(source) == {"representable"}


EXAMPLES = (
    Example(
        model(INDICES, [LOOKUP, "[last] y = LayerNormalization(h, g)"], {"e": array(7, 4), "g": array(4)}),
        sends=("last", centring()),
    ),
)
