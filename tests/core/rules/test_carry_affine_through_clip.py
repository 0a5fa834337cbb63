"""An affine map passes a Clip, whose bounds it changes."""

from __future__ import annotations

import numpy as np
import pytest

from folding import Example, array, doubling, model, norm, only_fold, proven_fold, statistics

IMAGE = "float[1, 4, 5, 5] x"
SIX = {"low": np.float32(0), "high": np.float32(6)}


def uniform(scale: float, shift: float) -> dict[str, np.ndarray]:
    return {"s": np.full(4, scale, "f"), "b": np.full(4, shift, "f"), "m": np.zeros(4, "f"), "v": np.full(4, 1, "f")}


def before(clip: str, held: dict[str, np.ndarray], opset: int = 17) -> object:
    body = ["[linear] h = Conv(x, w)", f"[clip] t = {clip}", norm("t", "y")]
    return model(IMAGE, body, {"w": array(4, 4, 1, 1), **held}, opset=opset)


def after(clip: str, held: dict[str, np.ndarray], opset: int = 17) -> object:
    body = ["r = Sinh(x)", norm("r", "n"), f"[clip] t = {clip}", "[linear] y = Conv(t, w)"]
    return model(IMAGE, body, {"w": array(3, 4, 3, 3), **held}, opset=opset)


@pytest.mark.parametrize(("scale", "shift"), [(2, 0), (2, -3), (-2, 1), (-0.5, 0)])
@pytest.mark.parametrize("bounds", ["low, high", '"", high', "low"])
def test_bounds_that_are_the_same_for_every_channel(scale: float, shift: float, bounds: str) -> None:
    held = uniform(scale, shift) | {name: value for name, value in SIX.items() if name in bounds}
    assert proven_fold(before(f"Clip(h, {bounds})", held)).operators == ["Conv", "Clip"]
    forth = proven_fold(after(f"Clip(n, {bounds})", held))
    assert forth.operators == ["Sinh", "Clip", "Conv"]
    assert "linear" in forth.decision.into


@pytest.mark.parametrize("scale", [2, -2])
def test_old_opsets_keep_bounds_in_attributes(scale: float) -> None:
    folded = proven_fold(before("Clip <min = 0.0, max = 6.0> (h)", uniform(scale, 1), opset=10))
    assert folded.operators == ["Conv", "Clip"]


def test_bounds_that_others_read() -> None:
    body = ["[linear] h = Conv(x, w)", "t = Clip(h, low, high)", norm("t", "y"), "z = Clip(x, low, high)"]
    source = model(IMAGE, body, {"w": array(4, 4, 1, 1), **uniform(2, 1), **SIX}, outputs="float[] y, float[] z")
    assert sorted(proven_fold(source).operators) == ["Clip", "Clip", "Conv"]


@pytest.mark.parametrize("direction", [before, after])
def test_refused_because_not_uniform_bounds(direction: object) -> None:
    folded = proven_fold(
        direction("Clip(h, low, high)" if direction is before else "Clip(n, low, high)", statistics(4) | SIX)
    )
    assert folded.refused == {"uniform-bounds", "not-output" if direction is before else "linear-producer"}


@pytest.mark.parametrize("direction", [before, after])
def test_a_scale_of_zero(direction: object) -> None:
    held = uniform(0, 1) | SIX
    folded = proven_fold(direction("Clip(h, low, high)" if direction is before else "Clip(n, low, high)", held))
    assert "uniform-bounds" in folded.refused


def test_bounds_in_the_wrong_order() -> None:
    """The upper bound wins, whichever is larger; a map that swapped them would make the lower one win."""
    held = uniform(2, 1) | {"low": np.float32(6), "high": np.float32(0)}
    proven_fold(before("Clip(h, low, high)", held))
    proven_fold(before("Clip(h, low, high)", held | uniform(-2, 1)))


def test_bounds_that_are_computed() -> None:
    body = ["[linear] h = Conv(x, w)", "[clip] t = Clip(h, low, high)", norm("t", "y")]
    source = model(f"{IMAGE}, float high", body, {"w": array(4, 4, 1, 1), "low": np.float32(0), **uniform(2, 1)})
    folded = proven_fold(source, feeds={"x": array(1, 4, 5, 5), "high": np.array(6, np.float32)})
    assert folded.refused == {"constant", "not-output"}


@pytest.mark.parametrize("call", ["Max(h, k)", "Max(k, h)", "Min(h, k)"])
def test_a_maximum_holds_bounds_of_each_channel(call: str) -> None:
    held = {"w": array(4, 4, 1, 1), **statistics(4), "k": array(4, 1, 1, seed=3) / 4}
    held["s"] = np.abs(held["s"])
    folded = proven_fold(model(IMAGE, ["[linear] h = Conv(x, w)", f"t = {call}", norm("t", "y")], held))
    assert folded.operators == ["Conv", call[:3]]
    assert folded.constant("k").shape == (4, 1, 1)


@pytest.mark.parametrize("call", ["Max(n, k)", "Min(n, k)"])
def test_one_bound_becomes_one_for_each_channel(call: str) -> None:
    held = {"w": array(3, 4, 3, 3), **statistics(4), "k": np.float32(0.25)}
    held["s"] = np.abs(held["s"])
    folded = proven_fold(model(IMAGE, ["r = Sinh(x)", norm("r", "n"), f"t = {call}", "[linear] y = Conv(t, w)"], held))
    assert folded.operators == ["Sinh", call[:3], "Conv"]
    assert folded.constant("k").shape == (4, 1, 1)


@pytest.mark.parametrize("call", ["Max(h, k)", "Min(h, k)"])
def test_refused_because_a_bound_would_change_sides(call: str) -> None:
    held = {"w": array(4, 4, 1, 1), **statistics(4), "k": array(4, 1, 1, seed=3)}
    folded = proven_fold(model(IMAGE, ["h = Conv(x, w)", f"[clip] t = {call}", norm("t", "y")], held))
    assert "negative scale" in folded.because("uniform-bounds")


def test_a_maximum_of_three() -> None:
    body = ["h = Conv(x, w)", "[clip] t = Max(h, k, l)", norm("t", "y")]
    held = {"w": array(4, 4, 1, 1), **statistics(4), "k": array(4, 1, 1), "l": array(4, 1, 1, seed=1)}
    assert "constant" in proven_fold(model(IMAGE, body, held)).refused


@pytest.mark.parametrize("bound", [np.full((4, 1, 1), -np.inf), np.full((4, 1, 1), np.nan)])
def test_a_bound_that_is_not_a_number(bound: np.ndarray) -> None:
    held = {"w": array(4, 4, 1, 1), **statistics(4), "k": bound.astype(np.float32)}
    assert "finite" in only_fold(model(IMAGE, ["h = Conv(x, w)", "t = Max(h, k)", norm("t", "y")], held)).refused


def test_a_bound_that_enlarges_the_value() -> None:
    held = {"w": array(1, 4, 1, 1), **statistics(4), "k": array(4, 1, 1)}
    folded = proven_fold(model(IMAGE, ["h = Conv(x, w)", "t = Max(h, k)", norm("t", "y")], held))
    assert "same-shape" in folded.refused


EXAMPLES = (
    Example(
        model(
            "float[1, 4, 6, 6] x",
            ["h = Conv(x, w)", "c = Clip(h, low, high)", norm("c", "y")],
            {"w": array(4, 4, 1, 1), "low": np.float32(0), "high": np.float32(6), **doubling(4)},
        )
    ),
)
