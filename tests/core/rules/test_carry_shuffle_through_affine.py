"""Constants change places with the channels that they belong to."""

from __future__ import annotations

import numpy as np

from folding import Example, array, model, norm, proven_fold, statistics
from routes import sent, shuffle

ORDER = np.array([2, 0, 1])
SWAP = "[swap] g = Gather <axis = 1> (x, p)"
IMAGE = "float[2, 3, 5, 5] x"


def test_a_norm_on_the_way_has_its_constants_reordered() -> None:
    """The padded convolution does not take the norm, but takes the order of the channels."""
    body = [SWAP, "[norm] n = BatchNormalization (g, s, b, m, v)", "y = Conv <pads = [1, 1, 1, 1]> (n, w)"]
    found = proven_fold(model(IMAGE, body, {"p": ORDER, "w": array(4, 3, 3, 3), **statistics(3)}))
    assert "Gather" not in found.operators


def test_past_arithmetic_that_is_the_same_for_every_channel() -> None:
    """Neither operation has room for other constants, nor needs it."""
    body = [SWAP, "n = Neg (g)", "q = Div (n, k)", "y = Conv <pads = [1, 1, 1, 1]> (q, w)"]
    found = proven_fold(model(IMAGE, body, {"p": ORDER, "w": array(4, 3, 3, 3), "k": np.float32(3)}))
    assert "Gather" not in found.operators


def test_room() -> None:
    """What subtracts from a constant is not written anew."""
    body = [SWAP, "q = Sub (k, g)", "y = Conv <pads = [1, 1, 1, 1]> (q, w)"]
    source = model(IMAGE, body, {"p": ORDER, "k": array(3, 1, 1), "w": array(4, 3, 3, 3)})
    _, plan, failed = sent(source, "swap", shuffle)
    assert plan is None
    assert failed == {"room"}


EXAMPLES = (
    Example(
        model(
            IMAGE,
            [SWAP, norm("g", "n"), "y = Conv <pads = [1, 1, 1, 1]> (n, w)"],
            {"p": ORDER, "w": array(4, 3, 3, 3), **statistics(3)},
        )
    ),
)
