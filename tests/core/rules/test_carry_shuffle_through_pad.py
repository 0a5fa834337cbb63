"""A Pad treats every channel alike, unless it adds some."""

from __future__ import annotations

import numpy as np

from folding import Example, array, model, proven_fold
from routes import sent, shuffle

ORDER = np.array([2, 0, 1])
SWAP = "[swap] g = Gather <axis = 1> (x, p)"
IMAGE = "float[2, 3, 5, 5] x"


def test_past_a_pad() -> None:
    body = [SWAP, "d = Pad (g, pads)", "y = Conv (d, w)"]
    held = {"p": ORDER, "pads": np.array([0, 0, 1, 1] * 2), "w": array(4, 3, 2, 2)}
    assert "Gather" not in proven_fold(model(IMAGE, body, held)).operators


def test_not_padded_axis() -> None:
    body = [SWAP, "d = Pad (g, pads)", "y = Conv (d, w)"]
    source = model(IMAGE, body, {"p": ORDER, "pads": np.array([0, 1, 0, 0] * 2), "w": array(4, 5, 1, 1)})
    assert "Gather" in proven_fold(source).operators
    _, plan, failed = sent(source, "swap", shuffle)
    assert plan is None
    assert failed == {"not-padded-axis"}


EXAMPLES = (
    Example(
        model(
            IMAGE,
            [SWAP, "d = Pad (g, pads)", "y = Conv (d, w)"],
            {"p": ORDER, "pads": np.array([0, 0, 1, 1] * 2), "w": array(4, 3, 2, 2)},
        )
    ),
)
