"""A scale goes forward into a quantised weight where it is one number for all that meet in an output."""

from __future__ import annotations

import numpy as np
import pytest

from folding import Example, array, model, norm, only_fold, proven_fold, statistics
from quantized import activation, behind, check_payload, factors, scales, weight

IMAGE = "float[2, 4, 5, 5] x"
INPUT = "linear-producer"
"""The way to the producer is closed, too: an activation with a negative scale, or the model's input."""


def refused(body: list[str], constants: dict[str, np.ndarray], inputs: str = IMAGE, opset: int = 17) -> set[str]:
    """Premises that fail on the way to the consumer."""
    return only_fold(model(inputs, body, constants, opset=opset)).refused - {INPUT}


def test_one_number_for_all_input_channels() -> None:
    made, held = weight(4, 3, axis=1)
    folded = proven_fold(
        model("float[2, 5, 4] x", ["t = Mul(x, k)", made, "y = MatMul(t, w)"], {**held, "k": np.float32(-2)})
    )
    assert folded.operators == ["DequantizeLinear", "MatMul"]
    assert folded.decision.rules == ("fold_scale_into_quantized_consumer",)
    check_payload(folded, "MatMul", held, np.full(3, -2.0), axis=1)


def test_each_channel_of_a_depthwise_convolution() -> None:
    made, held = weight(4, 1, 3, 3, axis=0)
    constants = {**held, **statistics(4)}
    folded = proven_fold(model(IMAGE, [norm("x", "t"), made, "y = Conv <group = 4> (t, w)"], constants))
    assert folded.operators == ["DequantizeLinear", "Conv"]
    check_payload(folded, "Conv", held, factors(constants), axis=0)


def test_a_bias_of_floating_numbers_takes_the_shift() -> None:
    made, held = weight(4, 1, 3, 3, axis=0, single=True)
    constants = {**held, **statistics(4), "c": array(4, seed=9)}
    folded = proven_fold(model(IMAGE, [norm("x", "t"), made, "y = Conv <group = 4> (t, w, c)"], constants))
    assert folded.operators == ["DequantizeLinear", "Conv"]
    assert behind(folded.result, "Conv", 1).axis == 0


def test_needs_one_scale_for_what_meets_in_an_output() -> None:
    made, held = weight(3, 4, 3, 3, axis=0)
    constants = {**held, "k": array(4, 1, 1)}
    body = ["t = Mul(x, k)", made, "y = Conv(t, w)"]
    assert refused(body, constants) == {"same-codes"}
    constants["k"][:] = 3
    assert refused(body, constants) == set()


def test_needs_a_bias_that_does_not_depend_on_the_inputs_scale() -> None:
    declared, before, held = activation("2, 4, 5, 5")
    made, stored = weight(3, 4, 3, 3, axis=0)
    bias = {"bq": np.int32([4000, -700, 0]), "bs": 0.03 * stored["ws"]}
    body = [*before, "t = Mul(xd, k)", made, "c = DequantizeLinear <axis = 0> (bq, bs)", "y = Conv(t, w, c)"]
    constants = {**held, **stored, **bias, "k": np.full((4, 1, 1), 2, np.float32)}
    assert refused(body, constants, declared) == {"same-codes"}


def test_needs_every_tap_for_a_shift() -> None:
    made, held = weight(4, 1, 3, 3, axis=0)
    body = [norm("x", "t"), made, "y = Conv <group = 4, pads = [1, 1, 1, 1]> (t, w)"]
    constants = {**held, **statistics(4)}
    assert refused(body, constants) == {"every-tap"}
    constants |= {"m": np.zeros(4, np.float32), "b": np.zeros(4, np.float32)}
    assert refused(body, constants) == set()


def test_needs_a_map_along_the_input_channels() -> None:
    made, held = weight(4, 1, 3, 3, axis=0)
    constants = {**held, "k": array(4, 1, 1), "l": array(5)}
    body = ["u = Mul(x, l)", "t = Mul(u, k)", made, "y = Conv <group = 4> (t, w)"]
    assert refused(body, constants) == {"per-input-channel"}


@pytest.mark.parametrize("premise", ["finite", "representable", "normal-scale"])
def test_needs_constants_that_fit(premise: str) -> None:
    made, held = weight(4, 1, 3, 3, axis=0)
    size = {"finite": np.inf, "representable": 1e38, "normal-scale": 1e-38}[premise]
    held["ws"] *= np.float32(1 if premise == "normal-scale" else 100)
    constants = {**held, "k": np.full((4, 1, 1), size, np.float32)}
    assert refused(["t = Mul(x, k)", made, "y = Conv <group = 4> (t, w)"], constants) == {premise}


def test_needs_room_for_a_scale_for_each_channel() -> None:
    made, held = weight(4, 1, 3, 3, axis=0, single=True)
    body = ["t = Mul(x, k)", made, "y = Conv <group = 4> (t, w)"]
    assert refused(body, {**held, "k": array(4, 1, 1)}, opset=12) == {"per-axis-scale"}
    assert refused(body, {**held, "k": array(4, 1, 1)}, opset=13) == set()


def test_needs_groups_with_one_scale_where_they_share_it() -> None:
    made, held = weight(4, 1, 3, 3, axis=1)
    body = ["t = Mul(x, k)", made, "y = ConvTranspose <group = 4> (t, w)"]
    held["ws"], held["wz"] = scales(1), np.zeros(1, np.int8)
    assert refused(body, {**held, "k": array(4, 1, 1)}) == {"scale-axis"}


def test_needs_codes_with_a_mirror_image() -> None:
    made, held = weight(4, 1, 3, 3, axis=0)
    held["q"][2, 0, 1, 1] = -128
    body = ["t = Mul(x, k)", made, "y = Conv <group = 4> (t, w)"]
    assert refused(body, {**held, "k": -np.ones((4, 1, 1), np.float32)}) == {"code-range"}
    assert refused(body, {**held, "k": np.float32([-1, -1, 2, -1]).reshape(4, 1, 1)}) == set()


EXAMPLES = (
    Example(
        model(
            "float[2, 5, 4] x",
            ["t = Mul(x, k)", weight(4, 3, axis=1)[0], "y = MatMul(t, w)"],
            {**weight(4, 3, axis=1)[1], "k": np.float32(0.125)},
        )
    ),
)
