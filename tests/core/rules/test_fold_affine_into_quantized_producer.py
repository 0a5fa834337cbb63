"""An affine map goes into the scales of a quantised weight; its codes stay, or are mirrored."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper

from folding import Example, array, model, norm, only_fold, proven_fold, statistics
from quantized import activation, behind, check_payload, factors, weight

IMAGE = "float[2, 4, 5, 5] x"
CONV = "[linear] h = Conv <pads = [1, 1, 1, 1]> (x, w)"
OUTPUT = "not-output"
"""Going on to the consumers is refused, too: the norm's output is the model's."""


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize(("dtype", "zero_point"), [(np.int8, 0), (np.int8, None), (np.uint8, 128)])
def test_codes_stay_or_are_mirrored(dtype: object, zero_point: int | None, single: bool) -> None:
    made, held = weight(3, 4, 3, 3, axis=0, dtype=dtype, single=single, zero_point=zero_point)
    constants = {**held, **statistics(3)}
    factor = factors(constants)
    assert {-1, 1} == set(np.sign(factor)), "the case needs both signs"
    folded = proven_fold(model(IMAGE, [made, CONV, norm("h", "y")], constants))
    assert folded.operators == ["DequantizeLinear", "Conv"]
    assert folded.decision.rules == ("fold_affine_into_quantized_producer",)
    stored = check_payload(folded, "Conv", constants, factor, axis=0)
    assert stored.axis == 0
    assert all(len(values) == 3 for values in stored.values)


def test_one_scale_for_all_stays_one() -> None:
    made, held = weight(3, 4, 3, 3, axis=0, single=True)
    folded = proven_fold(model(IMAGE, [made, CONV, "y = Mul(h, k)"], {**held, "k": np.full((3, 1, 1), 2, np.float32)}))
    stored = behind(folded.result, "Conv", 1)
    assert np.array_equal(stored.codes, held["q"])
    assert np.array_equal(stored.scale, 2 * held["ws"])
    assert stored.axis is None


def test_a_scale_of_zero_makes_codes_that_stand_for_zero() -> None:
    made, held = weight(3, 4, 3, 3, axis=0, dtype=np.uint8, zero_point=128)
    constants = {**held, **statistics(3)}
    constants["s"][1] = 0
    stored = behind(proven_fold(model(IMAGE, [made, CONV, norm("h", "y")], constants)).result, "Conv", 1)
    assert (stored.codes[1] == 128).all()
    assert stored.scale[1] == held["ws"][1]
    assert np.array_equal(
        stored.codes[0], held["q"][0] if factors(constants)[0] > 0 else 256 - held["q"][0].astype(int)
    )


def test_a_bias_of_steps_of_the_inputs_scale() -> None:
    declared, before, scales = activation("2, 4, 5, 5")
    made, held = weight(3, 4, 3, 3, axis=0)
    constants = {**held, **scales, **statistics(3)}
    step = scales["xs"].astype(np.float64) * held["ws"]
    constants |= {"bq": np.int32([4000, -700, 0]), "bs": step.astype(np.float32)}
    bias = constants["bq"] * constants["bs"].astype(np.float64)
    made, linear = f"{made}\nc = DequantizeLinear <axis = 0> (bq, bs)", "[linear] h = Conv (xd, w, c)"
    folded = proven_fold(model(declared, [*before, made, linear, norm("h", "y")], constants), tolerance=1e-3)
    factor = factors(constants)
    check_payload(folded, "Conv", constants, factor, axis=0)
    stored = behind(folded.result, "Conv", 2)
    wanted = factor * bias + constants["b"].astype(np.float64) - factor * constants["m"]
    new_step = step * np.abs(factor)
    assert stored.codes.dtype == np.int32
    assert np.allclose(stored.scale, new_step, rtol=1e-6, atol=0)
    assert (np.abs(stored.codes * new_step - wanted) <= new_step * 0.5000001).all()
    assert [node.op_type for node in folded.result.graph.node].count("DequantizeLinear") == 3


def test_a_bias_of_floating_numbers_stays_one() -> None:
    declared, before, scales = activation("2, 4, 5, 5")
    made, held = weight(3, 4, 3, 3, axis=0)
    constants = {**held, **scales, **statistics(3), "c": array(3)}
    folded = proven_fold(model(declared, [*before, made, "h = Conv (xd, w, c)", norm("h", "y")], constants))
    assert folded.constant("c").dtype == np.float32
    assert folded.operators == ["QuantizeLinear", "DequantizeLinear", "DequantizeLinear", "Conv"]


def test_many_folds_round_the_bias_once() -> None:
    declared, before, scales = activation("2, 4, 5, 5")
    made, held = weight(3, 4, 3, 3, axis=0)
    chain = {"k": array(3, 1, 1), "d": array(3, 1, 1, seed=4), "e": array(3, 1, 1, seed=5)}
    constants = {**held, **scales, **chain}
    constants |= {"bq": np.int32([4000, -700, 0]), "bs": scales["xs"] * held["ws"]}
    bias = "c = DequantizeLinear <axis = 0> (bq, bs)"
    after = ["t = Mul(h, k)", "u = Add(t, d)", "v = Mul(u, k)", "y = Add(v, e)"]
    folded = proven_fold(
        model(declared, [*before, made, bias, "h = Conv (xd, w, c)", *after], constants), tolerance=1e-3
    )
    factor, shift, last = (chain[name].astype(np.float64).reshape(-1) for name in "kde")
    step = scales["xs"].astype(np.float64) * held["ws"]
    stored = behind(folded.result, "Conv", 2)
    wanted = (factor**2 * constants["bq"] * constants["bs"].astype(np.float64) + factor * shift + last) / factor**2
    assert np.array_equal(stored.codes, np.rint(wanted / step))
    assert np.array_equal(behind(folded.result, "Conv", 1).codes, held["q"])


def refused(body: list[str], constants: dict[str, np.ndarray], inputs: str = IMAGE, opset: int = 17) -> set[str]:
    """Premises that fail, beside `OUTPUT`."""
    return only_fold(model(inputs, body, constants, opset=opset)).refused - {OUTPUT}


def test_needs_codes_with_a_mirror_image() -> None:
    made, held = weight(3, 4, 3, 3, axis=0)
    constants = {**held, **statistics(3)}
    channel = int(np.argmin(factors(constants)))
    held["q"][channel, 0, 0, 0] = -128
    assert refused([made, CONV, norm("h", "y")], constants) == {"code-range"}
    constants["s"] = -constants["s"]
    assert refused([made, CONV, norm("h", "y")], constants) == set()


def test_needs_codes_with_a_mirror_image_at_their_zero_point() -> None:
    made, held = weight(3, 4, 3, 3, axis=0, dtype=np.uint8, zero_point=100)
    assert refused([made, CONV, norm("h", "y")], {**held, **statistics(3)}) == {"code-range"}


def test_needs_room_for_a_scale_for_each_channel() -> None:
    made, held = weight(3, 4, 3, 3, axis=0, single=True)
    constants = {**held, **statistics(3)}
    assert refused([made, CONV, norm("h", "y")], constants, opset=12) == {"per-axis-scale"}
    assert refused([made, CONV, norm("h", "y")], constants, opset=13) == set()


def test_needs_groups_with_one_scale_where_they_share_it() -> None:
    made, held = weight(4, 3, 3, 3, axis=1)
    linear = "[linear] h = ConvTranspose <group = 2> (x, w)"
    constants = {**held, "k": array(6, 1, 1)}
    assert refused([made, linear, "y = Mul(h, k)"], constants) == {"scale-axis"}
    constants["k"] = np.tile(array(3, 1, 1), (2, 1, 1))
    assert refused([made, linear, "y = Mul(h, k)"], constants) == set()


@pytest.mark.parametrize("size", [1e-38, 1e38])
def test_needs_a_scale_that_its_type_holds(size: float) -> None:
    made, held = weight(3, 4, 3, 3, axis=0)
    held["q"] //= 64
    held["ws"] *= np.float32(100 if size > 1 else 1)
    constants = {**held, "k": np.full((3, 1, 1), size, np.float32)}
    premise = "normal-scale" if size < 1 else "representable"
    assert refused([made, CONV, "y = Mul(h, k)"], constants) == {premise}


def test_needs_a_bias_within_its_steps() -> None:
    declared, before, scales = activation("2, 4, 5, 5")
    made, held = weight(3, 4, 3, 3, axis=0)
    constants = {**held, **scales, **statistics(3), "bq": np.zeros(3, np.int32), "bs": scales["xs"] * held["ws"]}
    constants["s"][0] = 1e-7
    body = [*before, made, "c = DequantizeLinear <axis = 0> (bq, bs)", "h = Conv (xd, w, c)", norm("h", "y")]
    assert refused(body, constants, declared) == {"bias-range"}
    constants["s"][0] = 1e-4
    assert refused(body, constants, declared) == set()


def test_a_bias_that_was_not_there_is_one_of_floating_numbers() -> None:
    """Rounded to steps, as small as they are, it would move codes behind it."""
    declared, before, scales = activation("2, 4, 5, 5")
    made, held = weight(3, 4, 3, 3, axis=0)
    constants = {**held, **scales, **statistics(3)}
    constants["s"][0] = 1e-7
    folded = proven_fold(model(declared, [*before, made, "h = Conv (xd, w)", norm("h", "y")], constants))
    (bias,) = (t for t in folded.result.graph.initializer if t.name == folded.result.graph.node[-1].input[2])
    wanted = constants["b"].astype(np.float64) - factors(constants) * constants["m"]
    np.testing.assert_allclose(numpy_helper.to_array(bias), wanted.astype(np.float32))


def test_needs_finite_constants() -> None:
    made, held = weight(3, 4, 3, 3, axis=0)
    constants = {**held, "k": np.float32([1, np.inf, 2]).reshape(3, 1, 1)}
    assert refused([made, CONV, "y = Mul(h, k)"], constants) == {"finite"}


def test_needs_a_map_along_the_output_channels() -> None:
    made, held = weight(3, 4, 3, 3, axis=0)
    assert refused([made, CONV, "t = Mul(h, k)", "y = Mul(t, l)"], {**held, "k": array(3, 1, 1), "l": array(5)}) == {
        "per-output-channel"
    }


def test_does_not_pass_a_quantised_activation() -> None:
    made, held = weight(3, 4, 3, 3, axis=0)
    quantised = ["hq = QuantizeLinear (h, hs, hz)", "hd = DequantizeLinear (hq, hs, hz)"]
    constants = {**held, **statistics(3), "hs": np.float32(0.1), "hz": np.uint8(100)}
    folded = only_fold(model(IMAGE, [made, CONV, *quantised, norm("hd", "y")], constants))
    assert folded.refused == {"linear-producer", OUTPUT}
    assert "DequantizeLinear" in folded.because("linear-producer")


EXAMPLES = (
    Example(
        model(
            IMAGE,
            [weight(3, 4, 3, 3, axis=0)[0], CONV, norm("h", "y")],
            {**weight(3, 4, 3, 3, axis=0)[1], **statistics(3)},
        )
    ),
)
