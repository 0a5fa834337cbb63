"""``affine -> padded Conv`` becomes ``Add -> Conv`` or ``Conv -> Add``, where that pays."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from folding import Example, Folded, array, model, norm, only_fold, proven_fold, statistics
from normfold.core.costs import CostTable, cost_table

IMAGE = "float[1, 4, 5, 6] x"
FREE = "float[1, 4, H, W] x"
START = ["r = Sigmoid(x)", norm("r", "n")]
ENTRIES = dict.fromkeys(("conv/BatchNormalization", "conv/Mul", "conv/Add", "conv/Map"), 1.0)
BEFORE = CostTable("test", {**ENTRIES, "conv/Add": 0.5})
AFTER = CostTable("test", {**ENTRIES, "conv/Map": 0.5})
DEAR = CostTable("test", {**ENTRIES, "conv/Add": 2.0, "conv/Map": 3.0})
PADDED = {
    "conv": ("Conv <pads = [1, 1, 1, 1]> (n, w)", (3, 4, 3, 3)),
    "bias": ("Conv <pads = [1, 1, 1, 1]> (n, w, c)", (3, 4, 3, 3)),
    "one-side": ("Conv <pads = [0, 0, 0, 1]> (n, w)", (3, 4, 3, 3)),
    "wide": ("Conv <pads = [3, 2, 4, 3]> (n, w)", (3, 4, 2, 3)),
    "groups": ("Conv <pads = [1, 1, 1, 1], group = 2> (n, w)", (6, 2, 3, 3)),
    "depthwise": ("Conv <pads = [1, 1, 1, 1], group = 4> (n, w)", (8, 1, 3, 3)),
    "strided": ("Conv <pads = [1, 0, 1, 2], strides = [2, 3], dilations = [2, 1]> (n, w)", (3, 4, 2, 3)),
}
BEFORE_ONLY = {
    "same": ('Conv <auto_pad = "SAME_UPPER"> (n, w)', (3, 4, 3, 3)),
    "transposed": ("ConvTranspose(n, w)", (4, 3, 3, 3)),
    "transposed-strided": ("ConvTranspose <strides = [2, 2], group = 2, pads = [1, 0, 1, 1]> (n, w)", (4, 3, 3, 3)),
}


def folded(case: str, costs: CostTable, scale: np.ndarray | None = None, image: str = IMAGE) -> Folded:
    call, shape = (PADDED | BEFORE_ONLY)[case]
    held = {"w": array(*shape), "c": array(3), **statistics(4)}
    if scale is not None:
        held["s"] = scale
    return proven_fold(model(image, [*START, f"[linear] y = {call}"], held), costs=costs)


@pytest.mark.parametrize("case", [*PADDED, *BEFORE_ONLY])
def test_an_addition_before(case: str) -> None:
    result = folded(case, BEFORE)
    assert result.operators[:2] == ["Sigmoid", "Add"]
    assert len(result.operators) == 3
    assert result.decision.outcome == "folded"
    assert result.decision.into == ("linear",)
    assert result.decision.rules == ("fold_affine_into_padded_consumer",)


def test_an_addition_before_needs_no_sizes() -> None:
    assert folded("conv", BEFORE, image=FREE).operators == ["Sigmoid", "Add", "Conv"]


@pytest.mark.parametrize("case", PADDED)
def test_a_map_after(case: str) -> None:
    result = folded(case, AFTER)
    assert result.operators == ["Sigmoid", "Conv", "Add"]
    assert result.decision.rules == ("fold_affine_into_padded_consumer",)


def test_a_zero_scale_leaves_the_map() -> None:
    scale = array(4)
    scale[2] = 0
    assert folded("conv", replace(DEAR, allow_inserted=True), scale=scale).operators == ["Sigmoid", "Conv", "Add"]


@pytest.mark.parametrize("case", BEFORE_ONLY)
def test_refused_because_the_shift_cannot_stand_alone(case: str) -> None:
    scale = array(4)
    scale[2] = 0
    result = folded(case, replace(DEAR, allow_inserted=True), scale=scale)
    assert result.refused == {"every-tap", "padded-shift", "linear-producer"}
    assert result.operators[:2] == ["Sigmoid", "BatchNormalization"]


def test_refused_because_the_scale_is_tiny() -> None:
    scale = array(4)
    scale[2] = 1e-7
    assert "padded-shift" in folded("same", replace(DEAR, allow_inserted=True), scale=scale).refused


def test_refused_because_sizes_are_not_known_for_a_map() -> None:
    scale = array(4)
    scale[2] = 0
    result = folded("conv", AFTER, scale, FREE)
    assert result.refused == {"every-tap", "padded-shift", "linear-producer"}


@pytest.mark.parametrize("costs", [DEAR, cost_table()], ids=["test", "cpu"])
@pytest.mark.parametrize("case", [*PADDED, *BEFORE_ONLY])
def test_refused_because_it_does_not_pay(case: str, costs: CostTable) -> None:
    result = folded(case, costs)
    assert result.refused == {"every-tap", "linear-producer", "does-not-pay"}
    assert result.operators[1] == "BatchNormalization"
    because = result.because("does-not-pay")
    assert f"on {costs.provider}, " in because
    assert f"(cost table {costs.provider}: conv/" in because


def test_what_does_not_pay_can_be_allowed() -> None:
    assert folded("conv", replace(DEAR, allow_inserted=True)).operators == ["Sigmoid", "Add", "Conv"]


def test_refused_because_not_per_input_channel() -> None:
    body = ["r = Sigmoid(x)", "[scale] m = Mul(r, k)", "n = Add(m, d)", "y = Conv <pads = [1, 1, 1, 1]> (n, w)"]
    held = {"w": array(3, 4, 3, 3), "k": array(6), "d": array(6, seed=3)}
    result = proven_fold(model(IMAGE, body, held), costs=replace(BEFORE, allow_inserted=True))
    assert result.refused == {"per-input-channel", "linear-producer"}


@pytest.mark.parametrize("number", [np.inf, np.nan])
def test_refused_because_not_finite(number: float) -> None:
    body = ["r = Sigmoid(x)", "[scale] m = Mul(r, k)", "n = Add(m, d)", "y = Conv <pads = [1, 1, 1, 1]> (n, w)"]
    held = {"w": array(3, 4, 3, 3), "k": array(4, 1, 1), "d": np.full((4, 1, 1), number, np.float32)}
    result = only_fold(model(IMAGE, body, held), costs=replace(BEFORE, allow_inserted=True))
    assert result.refused == {"finite", "linear-producer", "representable"}


def test_refused_because_not_representable() -> None:
    body = ["r = Sigmoid(x)", "[scale] m = Mul(r, k)", "n = Add(m, d)", "y = Conv <pads = [1, 1, 1, 1]> (n, w)"]
    held = {
        "w": array(3, 4, 3, 3, dtype=np.float16),
        "k": np.full((4, 1, 1), 60000, np.float16),
        "d": np.ones((4, 1, 1), np.float16),
    }
    source = model("float16[1, 4, 5, 6] x", body, held, outputs="float16[] y")
    assert "representable" in only_fold(source, costs=replace(BEFORE, allow_inserted=True)).refused


def test_the_addition_serves_the_convolution_alone() -> None:
    """What the norm read has another reader, which must not see the shift."""
    body = [*START, "[linear] y = Conv <pads = [1, 1, 1, 1]> (n, w)", "z = Neg(r)"]
    held = {"w": array(3, 4, 3, 3), **statistics(4)}
    result = proven_fold(model(IMAGE, body, held, outputs="float[] y, float[] z"), costs=BEFORE)
    assert sorted(result.operators) == ["Add", "Conv", "Neg", "Sigmoid"]


def test_two_convolutions_get_an_addition_each() -> None:
    body = [*START, "[one] y = Conv <pads = [1, 1, 1, 1]> (n, w)", "[two] z = Conv <pads = [1, 1, 1, 1]> (n, w)"]
    held = {"w": array(3, 4, 3, 3), **statistics(4)}
    source = model(IMAGE, body, held, outputs="float[] y, float[] z")
    cheap = CostTable("test", {**ENTRIES, "conv/Add": 0.4})
    assert proven_fold(source, costs=cheap).operators.count("Add") == 2
    assert "does-not-pay" in proven_fold(source, costs=BEFORE).refused


def test_the_addition_stands_behind_what_the_norm_passed() -> None:
    body = [*START, "t = Transpose <perm = [0, 1, 3, 2]> (n)", "[linear] y = Conv <pads = [1, 1, 1, 1]> (t, w)"]
    held = {"w": array(3, 4, 3, 3), **statistics(4)}
    assert proven_fold(model(IMAGE, body, held), costs=BEFORE).operators == ["Sigmoid", "Transpose", "Add", "Conv"]


EXAMPLES = (
    Example(
        model(
            "float[1, 4, 5, 5] x",
            ["r = Relu(x)", norm("r", "n"), "y = Conv <pads = [1, 1, 1, 1]> (n, w)"],
            {"w": array(3, 4, 3, 3), **statistics(4)},
        ),
        costs=CostTable("test", {"conv/Add": 0.5, "conv/BatchNormalization": 1.0}),
    ),
)
