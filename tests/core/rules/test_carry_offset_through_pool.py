"""An offset of all channels is one behind an average over positions, whatever it is at each position."""

from __future__ import annotations

import onnx

from folding import Example, array, model
from routes import centring, refused_centring, sent

TOKENS = "float[2, 5, 3] x"


def pooled(pool: str, scale: int = 4) -> onnx.ModelProto:
    body = ["h = MatMul(x, w)", f"p = {pool}", "z = LayerNormalization(p, g)", "[last] y = Neg(h)"]
    held = {"w": array(3, 4), "g": array(scale)}
    return model(TOKENS, body, held, outputs="float[] y, float[] z", opset=17)


def test_past_an_average() -> None:
    _, plan, failed = sent(pooled("ReduceMean <axes = [1]> (h)"), "last", centring())
    assert plan is not None, failed
    assert "carry_offset_through_pool" in plan.rules


def test_averages() -> None:
    assert refused_centring(pooled("ReduceMax <axes = [1]> (h)")) == {"single-use", "averages"}


def test_not_pooled_axis() -> None:
    assert refused_centring(pooled("ReduceMean <axes = [2]> (h)", 1)) == {"single-use", "not-pooled-axis"}


EXAMPLES = (
    Example(
        model(
            "float[2, 5, 3] x",
            [
                "h = MatMul(x, w)",
                "[last] y = LayerNormalization(h, g)",
                "p = ReduceMean <axes = [1]> (h)",
                "z = LayerNormalization(p, g)",
            ],
            {"w": array(3, 4), "g": array(4)},
            outputs="float[] y, float[] z",
            opset=17,
        ),
        sends=("last", centring()),
    ),
)
