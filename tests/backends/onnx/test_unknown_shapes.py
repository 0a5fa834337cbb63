"""A route ends where the shapes that it would need are not known, with the premise that says so."""

from __future__ import annotations

import numpy as np
import pytest

from folding import array, model, norm, only_fold, proven_fold, statistics

OPERATORS = {
    "transpose": ("Transpose(n)", "static-reshape", {}),
    "reshape": ("Reshape(n, to)", "static-reshape", {"to": np.array([10, 4])}),
    "flatten": ("Flatten(n)", "static-reshape", {}),
    "squeeze": ("Squeeze(n, at)", "static-reshape", {"at": np.array([0])}),
    "unsqueeze": ("Unsqueeze(n, at)", "static-reshape", {"at": np.array([0])}),
    "slice": ("Slice(n, at, end)", "static-reshape", {"at": np.array([0]), "end": np.array([1])}),
    "pad": ("Pad(n, pads)", "static-reshape", {"pads": np.zeros(6, np.int64)}),
    "average": ("AveragePool <kernel_shape = [1]> (n)", "known-rank", {}),
    "maximum": ("MaxPool <kernel_shape = [1]> (n)", "known-rank", {}),
    "mean": ("ReduceMean(n)", "known-rank", {}),
    "instance-norm": ("InstanceNormalization(n, g, g)", "known-rank", {}),
}


@pytest.mark.parametrize("case", OPERATORS)
def test_a_value_of_unknown_rank(case: str) -> None:
    """The layer norm's scale does not need the rank; what reads it does."""
    call, premise, extra = OPERATORS[case]
    body = ["h = Reshape(x, shape)", "[layer] n = LayerNormalization(h, g)", f"[op] t = {call}", "y = MatMul(t, w)"]
    source = model("float[2, 5, 4] x, int64[k] shape", body, {"g": array(4), "w": array(4, 3), **extra}, opset=18)
    folded = only_fold(source)
    assert premise in {refusal.premise for refusal in folded.decisions["layer"].refused_by}
    assert any("'op'" in r.because for r in folded.decisions["layer"].refused_by)


def test_a_squeeze_of_what_may_be_one() -> None:
    body = ["r = Sigmoid(x)", norm("r", "n"), "[op] t = Squeeze(n)", "y = MatMul(t, w)"]
    folded = proven_fold(
        model("float[2, 4, L] x", body, {"w": array(5, 3), **statistics(4)}), feeds={"x": array(2, 4, 5)}
    )
    assert folded.refused == {"static-reshape", "linear-producer"}
    assert "Squeeze 'op'" in folded.because("static-reshape")


def test_a_split_of_a_free_size() -> None:
    body = ["r = Sigmoid(x)", norm("r", "n"), "[op] t, u = Split <axis = 2> (n)", "y = Conv(t, w)", "z = Conv(u, w)"]
    source = model("float[2, 4, L] x", body, {"w": array(3, 4, 1), **statistics(4)}, outputs="float[] y, float[] z")
    folded = proven_fold(source, feeds={"x": array(2, 4, 6)})
    assert folded.refused == {"static-reshape", "linear-producer"}
    assert "Split 'op'" in folded.because("static-reshape")


@pytest.mark.parametrize("sizes", ["2.0", "computed"])
def test_a_resizing_of_the_channels(sizes: str) -> None:
    held = {"w": array(3, 8, 1, 1), **statistics(4)}
    inputs = "float[1, 4, 5, 5] x"
    if sizes == "computed":
        inputs += ", float[4] scales"
    else:
        held["scales"] = np.array([1, 2, 1, 1], np.float32)
    body = ["r = Sigmoid(x)", norm("r", "n"), '[op] t = Resize <mode = "nearest"> (n, "", scales)', "y = Conv(t, w)"]
    feeds = {"x": array(1, 4, 5, 5)} | ({"scales": np.array([1, 2, 1, 1], np.float32)} if sizes == "computed" else {})
    folded = proven_fold(model(inputs, body, held), feeds=feeds)
    premise = "static-reshape" if sizes == "computed" else "not-pooled-axis"
    assert folded.refused == {premise, "linear-producer"}
    assert "Resize 'op'" in folded.because(premise)


@pytest.mark.parametrize(
    ("call", "where"),
    [("Slice(n, at, end)", "at"), ("Unsqueeze(n, at)", "at"), ("ReduceMean(n, at)", "at"), ("Pad(n, pads)", "pads")],
)
def test_axes_that_are_computed(call: str, where: str) -> None:
    held = {"w": array(4, 3), "g": array(4), "end": np.array([1])}
    body = ["[layer] n = LayerNormalization(x, g)", f"[op] t = {call}", "y = Relu(t)", "z = MatMul(n, w)"]
    source = model(f"float[2, 5, 4] x, int64[m] {where}", body, held, opset=18, outputs="float[] y, float[] z")
    folded = only_fold(source)
    assert "static-reshape" in folded.refused
    assert "'op'" in folded.because("static-reshape")


def test_a_concatenation_of_unknown_shapes() -> None:
    body = [
        "h = Reshape(x, shape)",
        "[layer] n = LayerNormalization(h, g)",
        "[op] t = Concat <axis = 1> (n, h)",
        "y = MatMul(t, w)",
    ]
    source = model("float[2, 5, 4] x, int64[k] shape", body, {"g": array(4), "w": array(4, 3)})
    assert "known-parts" in {r.premise for r in only_fold(source).decisions["layer"].refused_by}


def test_a_first_operand_whose_second_has_no_known_rank() -> None:
    body = ["h = Reshape(x, shape)", "[layer] n = LayerNormalization(h, g)", "[op] y = MatMul(w, n)"]
    source = model("float[2, 5, 4] x, int64[k] shape", body, {"g": array(4), "w": array(3, 5)})
    folded = only_fold(source)
    assert "matrix" in folded.refused
    assert "MatMul 'op'" in folded.because("matrix")


@pytest.mark.parametrize("weight", [(4,), (3, 0, 1, 1)])
def test_a_weight_of_an_odd_shape(weight: tuple[int, ...]) -> None:
    """Nothing runs it; it is refused, not tripped over."""
    op = "MatMul" if len(weight) == 1 else "Conv"
    shape = "2, 5, 4" if op == "MatMul" else "1, 0, 5, 5"
    body = ["r = Sigmoid(x)", "[layer] n = LayerNormalization(r, g)", f"[op] y = {op}(n, w)"]
    folded = only_fold(model(f"float[{shape}] x", body, {"g": array(4 if op == "MatMul" else 5), "w": array(*weight)}))
    assert folded.decision.outcome == "kept"


@pytest.mark.parametrize("shape", [(3, 4), (5, 4, 1, 1)])
def test_a_convolution_that_is_not_well_formed(shape: tuple[int, ...]) -> None:
    groups = " <group = 2>" if len(shape) == 4 else ""
    body = [f"[op] h = Conv{groups}(x, w)", norm("h", "y")]
    folded = only_fold(model("float[1, 4, 5, 5] x", body, {"w": array(*shape), **statistics(shape[0])}))
    assert folded.decision.outcome == "kept"
    assert folded.refused & {"well-formed", "known-rank"}


def test_a_norm_that_also_returns_its_statistics() -> None:
    body = ["[layer] n, z = LayerNormalization(x, g)", "y = MatMul(n, w)"]
    source = model("float[2, 5, 4] x", body, {"g": array(4), "w": array(4, 3)}, outputs="float[] y, float[] z")
    assert only_fold(source).decision.outcome in ("kept", "part-folded")
    body = ["[layer] n, q = LayerNormalization(x, g)", "y = MatMul(n, w)", "z = Relu(q)"]
    folded = proven_fold(
        model("float[2, 5, 4] x", body, {"g": array(4), "w": array(4, 3)}, outputs="float[] y, float[] z")
    )
    assert "single-use" in folded.refused
    assert "also returns its statistics" in folded.because("single-use")


def test_a_norm_that_nobody_reads() -> None:
    folded = proven_fold(model("float[1, 4, 5, 5] x", ["r = Sigmoid(x)", norm("r", "n"), "y = Relu(r)"], statistics(4)))
    assert folded.decision.outcome == "kept"
    assert "nothing reads" in folded.because("linear-consumer")


def test_a_quotient_of_two_convolutions() -> None:
    body = ["a = Conv(x, w)", "c0 = Conv(x, u)", "[op] t = Div(a, c0)", norm("t", "y")]
    held = {"w": array(3, 4, 1, 1), "u": np.abs(array(3, 4, 1, 1)), **statistics(3)}
    feeds = {"x": np.abs(array(1, 4, 5, 5))}
    folded = proven_fold(model("float[1, 4, 5, 5] x", body, held), feeds=feeds)
    assert folded.refused == {"affine", "not-output"}
    assert "Div 'op'" in folded.because("affine")


def test_a_sum_with_a_constant() -> None:
    body = ["a = Conv(x, w)", "t = Sum(a, k)", norm("t", "y")]
    held = {"w": array(3, 4, 1, 1), "k": array(3, 1, 1), **statistics(3)}
    proven_fold(model("float[1, 4, 5, 5] x", body, held))


def test_a_group_norm_of_unknown_rank() -> None:
    call = "com.microsoft.GroupNorm <groups = 2, activation = 0, channels_last = 0> (h, g, b)"
    body = ["h = Reshape(x, shape)", f"[group] n = {call}", "y = Conv(n, w)"]
    held = {"g": array(4), "b": array(4), "w": array(3, 4, 1, 1)}
    source = model("float[2, 4, 5, 5] x, int64[k] shape", body, held, imports='"com.microsoft" : 1')
    assert only_fold(source).refused == {"known-rank"}


def test_a_slice_without_its_ends() -> None:
    """No model that runs has one, and no lift falls over it."""
    body = ["r = Sigmoid(x)", norm("r", "n"), "[op] t = Slice(n, at)", "y = Conv(t, w)"]
    source = model("float[1, 4, 5, 5] x", body, {"at": np.array([0]), "w": array(3, 4, 1, 1), **statistics(4)})
    assert "well-formed" in only_fold(source).refused


def test_an_addition_at_an_output_that_says_no_type() -> None:
    body = ["h = MatMul(w, x)", norm("h", "y")]
    source = model("float[2, 5, 4] x", body, {"w": array(6, 5), **statistics(6)})
    source.graph.output[0].ClearField("type")
    assert [one.outcome for one in only_fold(source).decisions.values()] == ["folded"]
