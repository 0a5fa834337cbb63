"""An affine map passes a Pad, whose number it changes."""

from __future__ import annotations

import numpy as np
import pytest

from folding import Example, array, doubling, model, norm, proven_fold, statistics

IMAGE = "float[1, 4, 5, 5] x"
PADS = {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 2])}
UNIFORM = {"s": np.full(4, 2, "f"), "b": np.full(4, -3, "f"), "m": np.full(4, 0.5, "f"), "v": np.full(4, 1, "f")}


def before(pad: str, held: dict[str, np.ndarray]) -> object:
    return model(
        IMAGE, ["[linear] h = Conv(x, w)", f"[pad] t = {pad}", norm("t", "y")], {"w": array(4, 4, 1, 1), **PADS, **held}
    )


def after(pad: str, held: dict[str, np.ndarray]) -> object:
    body = ["r = Sigmoid(x)", norm("r", "n"), f"[pad] t = {pad}", "[linear] y = Conv(t, w)"]
    return model(IMAGE, body, {"w": array(3, 4, 3, 3), **PADS, **held})


@pytest.mark.parametrize("value", ["", ", value"])
def test_a_number_that_is_the_same_for_every_channel(value: str) -> None:
    held = UNIFORM | ({"value": np.float32(1.5)} if value else {})
    back = proven_fold(before(f"Pad(h, pads{value})", held))
    assert back.operators == ["Conv", "Pad"]
    forth = proven_fold(after(f"Pad(n, pads{value})", held))
    assert forth.operators == ["Sigmoid", "Pad", "Conv"]
    assert "linear" in forth.decision.into


def test_a_scale_alone_keeps_a_padding_of_zero() -> None:
    held = statistics(4) | {"b": np.zeros(4, "f"), "m": np.zeros(4, "f")}
    folded = proven_fold(before("Pad(h, pads)", held))
    assert folded.operators == ["Conv", "Pad"]
    assert folded.decision.into == ("linear",)


@pytest.mark.parametrize("mode", ["reflect", "edge"])
def test_copies_pass_everything(mode: str) -> None:
    assert proven_fold(before(f'Pad <mode = "{mode}"> (h, pads)', statistics(4))).operators == ["Conv", "Pad"]
    assert proven_fold(after(f'Pad <mode = "{mode}"> (n, pads)', statistics(4))).operators == ["Sigmoid", "Pad", "Conv"]


def test_old_opsets_keep_pads_in_attributes() -> None:
    body = ["[linear] h = Conv(x, w)", "t = Pad <pads = [0, 0, 1, 1, 0, 0, 1, 1], value = 1.5> (h)", norm("t", "y")]
    folded = proven_fold(model(IMAGE, body, {"w": array(4, 4, 1, 1), **UNIFORM}, opset=9))
    assert folded.operators == ["Conv", "Pad"]


def test_axes_of_opset_18() -> None:
    body = ["[linear] h = Conv(x, w)", 't = Pad(h, pads, "", axes)', "y = Mul(t, k)"]
    held = {"w": array(4, 4, 1, 1), "pads": np.array([1, 2, 0, 1]), "axes": np.array([-1, 2]), "k": array(4, 1, 1)}
    source = model(IMAGE, [*body[:2], norm("t", "y")], {k: v for k, v in held.items() if k != "k"} | UNIFORM, opset=18)
    assert proven_fold(source).operators == ["Conv", "Pad"]


@pytest.mark.parametrize("direction", [before, after])
def test_refused_because_not_a_uniform_padding(direction: object) -> None:
    folded = proven_fold(direction("Pad(h, pads)" if direction is before else "Pad(n, pads)", statistics(4)))
    assert folded.refused == {"uniform-padding", "not-output" if direction is before else "linear-producer"}


def test_a_channel_without_scale_has_no_number_to_pad_with() -> None:
    held = UNIFORM | {"s": np.array([2, 0, 2, 2], "f")}
    assert "uniform-padding" in proven_fold(after("Pad(n, pads)", held)).refused


@pytest.mark.parametrize("direction", [before, after])
def test_refused_because_of_a_padded_axis(direction: object) -> None:
    held = {"pads": np.array([0, 1, 0, 0, 0, 0, 0, 0])}
    if direction is before:
        source = before('Pad <mode = "edge"> (h, pads)', held | statistics(5))
    else:
        source = after('Pad <mode = "edge"> (n, pads)', held | statistics(4) | {"w": array(3, 5, 3, 3)})
    folded = proven_fold(source)
    assert folded.refused == {"not-padded-axis", "not-output" if direction is before else "linear-producer"}


def test_padding_the_channels_where_all_are_the_same() -> None:
    """The map is written per channel, so it is read as one that varies."""
    held = UNIFORM | {"pads": np.array([0, 1, 0, 0, 0, 0, 0, 0]), "w": array(3, 5, 3, 3)}
    proven_fold(after("Pad(n, pads)", held))


EXAMPLES = (
    Example(
        model(
            "float[1, 4, 6, 6] x",
            ["h = Conv(x, w)", "p = Pad(h, pads)", norm("p", "y")],
            {"w": array(4, 4, 1, 1), "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), **doubling(4)},
        )
    ),
)
