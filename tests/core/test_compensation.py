"""A producer with several readers takes a map if every other reader can undo it."""

from __future__ import annotations

import numpy as np

from folding import array, model, norm, proven_fold, statistics

IMAGE = "float[1, 4, 6, 6] x"


def test_another_convolution_undoes_it() -> None:
    body = ["c = Conv(x, w)", norm("c", "n"), "a = Relu(n)", "e = Conv(c, u)", "y = Add(a, e)"]
    held = {"w": array(4, 4, 1, 1), "u": array(4, 4, 1, 1, seed=2)} | statistics(4)
    assert proven_fold(model(IMAGE, body, held)).operators == ["Conv", "Relu", "Conv", "Add"]


def test_another_norm_undoes_it() -> None:
    body = [
        "c = Conv(x, w)",
        norm("c", "n", "p"),
        "a = Relu(n)",
        norm("c", "z", "q"),
        "e = Sigmoid(z)",
        "y = Add(a, e)",
    ]
    held = {"w": array(4, 4, 1, 1)} | statistics(4, "p") | statistics(4, "q", seed=20)
    assert proven_fold(model(IMAGE, body, held)).operators.count("BatchNormalization") == 1


def test_an_activation_cannot() -> None:
    """single-use: what else reads the convolution has no place for the inverse."""
    body = ["[conv] c = Conv(x, w)", norm("c", "n"), "a = Sigmoid(n)", "e = Tanh(c)", "y = Add(a, e)"]
    folded = proven_fold(model(IMAGE, body, {"w": array(4, 4, 1, 1)} | statistics(4)))
    assert "BatchNormalization" in folded.operators
    (decision,) = folded.decisions.values()
    assert "single-use" in [refusal.premise for refusal in decision.refused_by]


def test_a_channel_that_the_map_makes_constant_cannot_be_undone() -> None:
    held = {"w": array(4, 4, 1, 1), "u": array(4, 4, 1, 1, seed=2)} | statistics(4)
    held = {
        name: np.where(np.arange(4) == 1, 0, v).astype(np.float32) if name.startswith("s") and v.ndim == 1 else v
        for name, v in held.items()
    }
    body = ["c = Conv(x, w)", norm("c", "n"), "a = Sigmoid(n)", "e = Conv(c, u)", "y = Add(a, e)"]
    assert "BatchNormalization" in proven_fold(model(IMAGE, body, held)).operators


def test_a_large_shift_costs_too_much() -> None:
    """well-conditioned: undoing a shift of a thousand deviations leaves little of the values."""
    held = {"w": array(4, 4, 1, 1), "u": array(4, 4, 1, 1, seed=2), "k": np.full((4, 1, 1), 1000, np.float32)}
    body = [
        "c = Conv(x, w)",
        "[scale] m = Mul(c, h)",
        "n = Add(m, k)",
        "a = Sigmoid(n)",
        "e = Conv(c, u)",
        "y = Add(a, e)",
    ]
    held["h"] = np.full((4, 1, 1), 2, np.float32)
    folded = proven_fold(model(IMAGE, body, held))
    assert "Add" in folded.operators[:-1]
