"""An affine map passes an average, a maximum, a mean over axes, a resizing."""

from __future__ import annotations

import numpy as np
import pytest

from folding import Example, array, model, norm, only_fold, proven_fold, statistics

IMAGE = "float[1, 4, 6, 6] x"
ANY = {
    "average": "AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (n)",
    "average-padded": "AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (n)",
    "average-same": 'AveragePool <kernel_shape = [3, 3], auto_pad = "SAME_UPPER"> (n)',
    "average-counting-no-padding": "AveragePool <kernel_shape = [2, 2], count_include_pad = 1> (n)",
    "global": "GlobalAveragePool(n)",
    "mean": "ReduceMean <axes = [2, 3], keepdims = 1> (n)",
    "resize": 'Resize <mode = "nearest"> (n, "", scales)',
    "resize-linear": 'Resize <mode = "linear"> (n, "", scales)',
    "resize-cubic": 'Resize <mode = "cubic"> (n, "", scales)',
}
MAXIMA = {
    "maximum": "MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (n)",
    "maximum-padded": "MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (n)",
    "global-maximum": "GlobalMaxPool(n)",
    "reduced-maximum": "ReduceMax <axes = [2, 3]> (n)",
}
SCALES = {"scales": np.array([1, 1, 2, 2], np.float32)}


def constants(pool: str) -> dict[str, np.ndarray]:
    return {"w": array(3, 4, 1, 1), **statistics(4), **(SCALES if "scales" in pool else {})}


@pytest.mark.parametrize("case", ANY)
def test_towards_the_consumer(case: str) -> None:
    body = ["r = Sigmoid(x)", norm("r", "n"), f"t = {ANY[case]}", "[linear] y = Conv(t, w)"]
    folded = proven_fold(model(IMAGE, body, constants(ANY[case])))
    assert folded.decision.into == ("linear",)
    assert folded.decision.rules == ("carry_affine_through_pool", "fold_affine_into_consumer")


@pytest.mark.parametrize("case", ANY)
def test_towards_the_producer(case: str) -> None:
    body = ["[linear] n = Conv(x, w)", f"t = {ANY[case]}", norm("t", "y")]
    held = constants(ANY[case]) | {"w": array(4, 4, 1, 1)}
    folded = proven_fold(model(IMAGE, body, held))
    assert folded.decision.into == ("linear",)


@pytest.mark.parametrize("case", MAXIMA)
def test_a_maximum_passes_scales_that_are_not_negative(case: str) -> None:
    body = ["r = Sigmoid(x)", norm("r", "n"), f"t = {MAXIMA[case]}", "[linear] y = Conv(t, w)"]
    held = constants(MAXIMA[case])
    held["s"] = np.abs(held["s"])
    held["s"][1] = 0
    assert proven_fold(model(IMAGE, body, held)).decision.into == ("linear",)


@pytest.mark.parametrize("case", MAXIMA)
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_refused_because_not_a_non_negative_scale(case: str, direction: str) -> None:
    held = constants(MAXIMA[case])
    held["s"] = np.array([1, -1, 1, 1], np.float32)
    if direction == "forward":
        body = ["r = Sigmoid(x)", norm("r", "n"), f"[pool] t = {MAXIMA[case]}", "[linear] y = Conv(t, w)"]
    else:
        held["w"] = array(4, 4, 1, 1)
        body = ["[linear] n = Conv(x, w)", f"[pool] t = {MAXIMA[case]}", norm("t", "y")]
    folded = proven_fold(model(IMAGE, body, held))
    assert folded.refused == {"non-negative-scale", "linear-producer" if direction == "forward" else "not-output"}
    assert "1 of 4 scales are negative" in folded.because("non-negative-scale")


COUNTING = [
    "AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 1> (n)",
    "AveragePool <kernel_shape = [3, 3], pads = [0, 0, 0, 1], count_include_pad = 1> (n)",
    'AveragePool <kernel_shape = [3, 3], auto_pad = "SAME_LOWER", count_include_pad = 1> (n)',
]


@pytest.mark.parametrize("pool", COUNTING)
def test_refused_because_not_every_tap(pool: str) -> None:
    body = ["r = Sigmoid(x)", norm("r", "n"), f"[pool] t = {pool}", "[linear] y = Conv(t, w)"]
    folded = proven_fold(model(IMAGE, body, constants(pool)))
    assert folded.refused == {"every-tap", "linear-producer"}


@pytest.mark.parametrize("pool", COUNTING)
def test_a_scale_passes_an_average_of_padding(pool: str) -> None:
    body = ["[linear] n = Conv(x, w)", f"t = {pool}", "[scale] q = Mul(t, k)", "y = Relu(q)", "z = Conv(y, w)"]
    held = {"w": array(4, 4, 1, 1), "k": array(4, 1, 1)}
    proven_fold(model(IMAGE, body, held))


@pytest.mark.parametrize("shape", [(6,), (4, 6, 1)])
def test_refused_because_of_a_pooled_axis(shape: tuple[int, ...]) -> None:
    body = [
        "[linear] n0 = Conv(x, w)",
        "[scale] n = Mul(n0, k)",
        "t = AveragePool <kernel_shape = [2, 2]> (n)",
        "y = Tanh(t)",
    ]
    folded = proven_fold(model(IMAGE, body, {"w": array(4, 4, 1, 1), "k": array(*shape)}))
    assert folded.refused == {"per-output-channel", "not-pooled-axis"}


def test_a_mean_over_the_channels() -> None:
    body = ["r = Sigmoid(x)", norm("r", "n"), "[pool] t = ReduceMean <axes = [1]> (n)", "y = Conv(t, w)"]
    folded = proven_fold(model(IMAGE, body, {"w": array(3, 1, 1, 1), **statistics(4)}))
    assert folded.refused == {"not-pooled-axis", "linear-producer"}


@pytest.mark.parametrize(("axes", "keep"), [([2, 3], 0), ([-1, 2], 0), ([3], 0), ([2], 1), ([], 0), (None, 1)])
def test_means_of_opset_18(axes: list[int] | None, keep: int) -> None:
    call = f"ReduceMean <keepdims = {keep}> (n{', axes' if axes is not None else ''})"
    held = statistics(4) | ({} if axes is None else {"axes": np.array(axes, np.int64)})
    body = ["r = Sigmoid(x)", norm("r", "n"), f"t = {call}", "q = Mul(t, two)", "y = Relu(q)"]
    proven_fold(model(IMAGE, body, held | {"two": np.float32(2)}, opset=18))


@pytest.mark.parametrize("axes", [[2, 3], []])
def test_a_mean_that_may_do_nothing(axes: list[int]) -> None:
    """noop_with_empty_axes: without axes it is the identity."""
    call = "ReduceMean <keepdims = 0, noop_with_empty_axes = 1> (n, axes)"
    held = statistics(4) | {"axes": np.array(axes, np.int64), "w": array(4, 3) if axes else array(6, 3)}
    body = ["r = Sigmoid(x)", norm("r", "n"), f"t = {call}", "[linear] y = MatMul(t, w)"]
    proven_fold(model(IMAGE, body, held, opset=18))


def test_a_mean_without_axes_is_over_all() -> None:
    held = statistics(4) | {"axes": np.array([], np.int64), "w": array(1, 3), "one": np.array([1, 1])}
    body = ["r = Sigmoid(x)", norm("r", "n"), "q = ReduceMean(n, axes)", "t = Reshape(q, one)", "y = MatMul(t, w)"]
    folded = proven_fold(model(IMAGE, body, held, opset=18))
    assert folded.refused == {"not-pooled-axis", "linear-producer"}


def test_indices_that_are_read() -> None:
    """Where a scale is zero, every place would be the largest."""
    body = ["[linear] n = Conv(x, w)", "[pool] t, z = MaxPool <kernel_shape = [2, 2]> (n)", norm("t", "y")]
    held = {"w": array(4, 4, 1, 1), **statistics(4)}
    held["s"] = np.array([1, 0, 2, 1], np.float32)
    folded = proven_fold(model(IMAGE, body, held, outputs="float[] y, int64[] z"))
    assert folded.refused == {"single-use", "not-output"}
    assert "MaxPool 'pool' also returns indices" in folded.because("single-use")


@pytest.mark.parametrize(("size", "outcome"), [("2", "kept"), ("L", "kept"), ("6", "folded")])
def test_a_maximum_whose_windows_may_lie_in_the_padding(size: str, outcome: str) -> None:
    """Taps three apart can all miss an input of two; what they see then is no minus infinity."""
    pool = "MaxPool <kernel_shape = [2], dilations = [3], pads = [2, 2]> (n)"
    body = ["r = Sigmoid(x)", norm("r", "n"), f"[pool] t = {pool}", "[linear] y = Conv(t, w)"]
    held = {"w": array(3, 4, 1), **statistics(4)}
    held["s"] = np.abs(held["s"])
    folded = only_fold(model(f"float[1, 4, {size}] x", body, held))
    assert folded.decision.outcome == outcome
    assert ("every-tap" in folded.refused) == (outcome == "kept")


def test_a_resizing_that_fills_in() -> None:
    mode = 'mode = "linear", coordinate_transformation_mode = "tf_crop_and_resize", extrapolation_value = 7.0'
    call = f"Resize <{mode}> (n, roi, scales)"
    body = ["r = Sigmoid(x)", norm("r", "n"), f"[pool] t = {call}", "[linear] y = Conv(t, w)"]
    held = constants(call) | {"roi": np.array([0, 0, -0.5, -0.5, 1, 1, 1.5, 1.5], np.float32)}
    folded = proven_fold(model(IMAGE, body, held))
    assert folded.refused == {"every-tap", "linear-producer"}


LINEAR = 'Resize <mode = "linear"> (n, "", scales)'


@pytest.mark.parametrize("direction", ["consumer", "producer"])
def test_a_resizing_of_the_channels_that_keeps_how_many_they_are(direction: str) -> None:
    """Four channels times 1.2 are four others, each a mixture of two."""
    if direction == "consumer":
        body = ["r = Sigmoid(x)", norm("r", "n"), f"t = {LINEAR}", "[linear] y = Conv(t, w)"]
    else:
        body = ["[linear] n = Conv(x, w)", f"t = {LINEAR}", norm("t", "y")]
    held = {"w": array(4, 4, 1, 1), **statistics(4), "scales": np.array([1, 1.2, 2, 2], np.float32)}
    folded = proven_fold(model(IMAGE, body, held), reference=True)
    assert "not-pooled-axis" in folded.refused


@pytest.mark.parametrize("axes", ["[2, 3]", "[1, 3]"])
def test_a_resizing_that_names_its_axes(axes: str) -> None:
    call = f'Resize <mode = "nearest", axes = {axes}> (n, "", scales)'
    body = ["r = Sigmoid(x)", norm("r", "n"), f"t = {call}", "[linear] y = Conv(t, w)"]
    held = {"w": array(3, 4 if "1" not in axes else 8, 1, 1), **statistics(4), "scales": np.array([2, 2], np.float32)}
    folded = proven_fold(model(IMAGE, body, held, opset=18), reference=True)
    assert ("not-pooled-axis" in folded.refused) == ("1" in axes)


def test_a_resizing_to_sizes_that_are_computed() -> None:
    """Where the sizes are given, an axis that keeps its own is left alone; one whose size is not known is not."""
    sizes = ["o = Shape <start = 0, end = 2> (n)", "sizes = Concat <axis = 0> (o, twelve)"]
    call = 'Resize <mode = "nearest"> (n, "", "", sizes)'
    body = ["r = Sigmoid(x)", norm("r", "n"), *sizes, f"t = {call}", "[linear] y = Conv(t, w)"]
    held = {"w": array(3, 4, 1, 1), **statistics(4), "twelve": np.array([12, 12])}
    assert proven_fold(model("float[N, 4, 6, 6] x", body, held)).decision.into == ("linear",)


def test_a_resizing_by_scales_that_are_inputs() -> None:
    body = ["r = Sigmoid(x)", norm("r", "n"), f"[pool] t = {LINEAR}", "[linear] y = Conv(t, w)"]
    source = model(f"{IMAGE}, float[4] scales", body, {"w": array(3, 4, 1, 1), **statistics(4)})
    folded = only_fold(source)
    assert folded.refused == {"static-reshape", "linear-producer"}
    assert "Resize 'pool'" in folded.because("static-reshape")


EXAMPLES = (
    Example(
        model(
            "float[1, 4, 6, 6] x",
            ["r = Relu(x)", norm("r", "n"), "p = GlobalAveragePool(n)", "f = Flatten(p)", "y = Gemm(f, w)"],
            {"w": array(4, 3), **statistics(4)},
        )
    ),
)
