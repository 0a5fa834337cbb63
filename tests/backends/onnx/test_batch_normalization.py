"""BatchNormalization of every opset: its inference form folds, its other forms are refused by name."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from folding import array, model, norm, only_fold, proven_fold, statistics
from normfold.backends.onnx import OnnxGraph
from normfold.runtime import CHECKER

NEWEST = onnx.defs.onnx_opset_version()
CONV = "[linear] h = Conv(x, w)"
IMAGE = "float[1, 4, 5, 5] x"


def constants(**changed: np.ndarray) -> dict[str, np.ndarray]:
    return {"w": array(3, 4, 1, 1), **statistics(3), **changed}


def ir_version(opset: int) -> int:
    return 3 if opset < 9 else 8 if opset < 21 else 10


@pytest.mark.parametrize("opset", sorted({7, 8, 9, 11, 13, 14, 15, 17, 21, NEWEST}))
def test_every_opset(opset: int) -> None:
    held = constants()
    source = model(IMAGE, [CONV, norm("h", "y")], held, opset=opset, ir_version=ir_version(opset))
    if source.ir_version < 4:
        source.graph.input.extend(
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, values.shape)
            for name, values in held.items()
        )
    folded = proven_fold(source, reference=opset == NEWEST)
    assert folded.operators == ["Conv"]
    assert folded.decision.outcome == "folded"


@pytest.mark.parametrize("opset", [7, 8])
def test_statistics_for_each_element(opset: int) -> None:
    held = constants() | {name: array(3, 5, 5, seed=k) for k, name in enumerate("sbm")} | {"v": np.ones((3, 5, 5), "f")}
    folded = only_fold(model(IMAGE, [CONV, norm("h", "y", attributes=", spatial = 0")], held, opset=opset))
    assert folded.decision.outcome == "kept"
    assert folded.refused == {"per-channel-statistics"}
    assert "'y_norm'" in folded.because("per-channel-statistics")


def test_spatial_means_nothing_from_opset_9_on() -> None:
    """Old exporters left ``spatial=1`` behind."""
    folded = proven_fold(model(IMAGE, [CONV, norm("h", "y", attributes=", spatial = 1")], constants(), opset=8))
    assert folded.operators == ["Conv"]


@pytest.mark.parametrize("opset", [14, 15, NEWEST])
def test_training_mode(opset: int) -> None:
    body = [CONV, "[y_norm] y, rm, rv = BatchNormalization <training_mode = 1> (h, s, b, m, v)"]
    folded = only_fold(model(IMAGE, body, constants(), opset=opset, ir_version=ir_version(opset)))
    assert folded.decision.outcome == "kept"
    assert folded.refused == {"inference-mode"}
    assert "training_mode=1" in folded.because("inference-mode")


def test_training_mode_with_one_output() -> None:
    body = [CONV, norm("h", "y", attributes=", training_mode = 1")]
    folded = only_fold(model(IMAGE, body, constants()))
    assert folded.refused == {"inference-mode"}
    assert folded.operators == ["Conv", "BatchNormalization"]


@pytest.mark.parametrize("opset", [7, 9, 13])
def test_the_training_form_of_old_opsets(opset: int) -> None:
    body = [CONV, "[y_norm] y, rm, rv, sm, sv = BatchNormalization(h, s, b, m, v)"]
    folded = only_fold(model(IMAGE, body, constants(), opset=opset))
    assert folded.decision.outcome == "kept"
    assert folded.refused == {"inference-mode"}
    assert "statistics" in folded.because("inference-mode")


@pytest.mark.parametrize(("flag", "outcome"), [(", is_test = 1", "folded"), (", is_test = 0", "kept"), ("", "kept")])
def test_opset_6(flag: str, outcome: str) -> None:
    folded = only_fold(model(IMAGE, [CONV, norm("h", "y", attributes=flag)], constants(), opset=6))
    assert folded.decision.outcome == outcome
    assert folded.refused == (set() if outcome == "folded" else {"inference-mode"})


def test_opset_6_statistics_for_each_element() -> None:
    held = constants() | {name: array(3, 5, 5, seed=k) for k, name in enumerate("sbm")} | {"v": np.ones((3, 5, 5), "f")}
    body = [CONV, norm("h", "y", attributes=", is_test = 1, spatial = 0")]
    assert only_fold(model(IMAGE, body, held, opset=6)).refused == {"per-channel-statistics"}


@pytest.mark.parametrize("epsilon", [0.0, 1e-12])
def test_a_variance_plus_epsilon_of_zero(epsilon: float) -> None:
    held = constants(v=np.array([1, -epsilon, 1], np.float32))
    body = [CONV, f"[y_norm] y = BatchNormalization <epsilon = {epsilon:.15f}> (h, s, b, m, v)"]
    folded = only_fold(model(IMAGE, body, held))
    assert folded.decision.outcome == "kept"
    assert folded.refused == {"finite"}
    assert "'y_norm'" in folded.because("finite")


@pytest.mark.parametrize("broken", ["s", "b", "m", "v"])
@pytest.mark.parametrize("number", [np.inf, -np.inf, np.nan])
def test_a_constant_that_is_not_a_number(broken: str, number: float) -> None:
    held = constants()
    held[broken][1] = number
    folded = only_fold(model(IMAGE, [CONV, norm("h", "y")], held))
    if (broken, number) == ("v", np.inf):  # x / sqrt(inf) is 0: odd, but a number
        return
    assert folded.refused == {"finite"}


def test_statistics_that_are_model_inputs() -> None:
    held = constants()
    del held["m"]
    folded = proven_fold(model(f"{IMAGE}, float[3] m", [CONV, norm("h", "y")], held))
    assert folded.refused == {"constant"}
    assert "the mean" in folded.because("constant")
    assert "'m' is an input" in folded.because("constant")


def test_statistics_that_are_computed() -> None:
    held = constants()
    held["v0"] = held.pop("v")
    body = [CONV, "q = ReduceSum <keepdims = 0> (x)", "z = Mul(q, zero)", "v = Add(v0, z)", norm("h", "y")]
    folded = proven_fold(model(IMAGE, body, held | {"zero": np.float32(0)}))
    assert "constant" in folded.refused
    assert "the variance of BatchNormalization 'y_norm' is not constant" in folded.because("constant")


def test_constants_of_different_lengths() -> None:
    """Nothing runs such a model; it must be refused all the same, not crash."""
    graph = OnnxGraph(onnx_model_with(m=array(2)), CHECKER.infer)
    (site,) = graph.sites()
    (refusal,) = graph.view(site.nodes[0]).refusals
    assert refusal.premise == "well-formed"
    assert "four vectors of one length" in refusal.because


def onnx_model_with(**changed: np.ndarray) -> object:
    import onnx_ir as ir

    return ir.from_proto(model(IMAGE, [CONV, norm("h", "y")], constants(**changed)))


def test_an_input_of_unknown_rank() -> None:
    body = ["h = Reshape(x, shape)", norm("h", "y")]
    source = model("float[1, 4, 5, 5] x, int64[k] shape", body, statistics(4))
    folded = only_fold(source)
    assert folded.refused == {"known-rank"}
    assert "shape inference" in folded.because("known-rank")


def test_norm_after_norm() -> None:
    body = [CONV, norm("h", "t", "p"), norm("t", "y")]
    folded = proven_fold(model(IMAGE, body, {"w": array(3, 4, 1, 1), **statistics(3), **statistics(3, "p", seed=20)}))
    assert folded.operators == ["Conv"]
    assert {d.outcome for d in folded.decisions.values()} == {"folded"}
    assert {d.into for d in folded.decisions.values()} == {("linear",)}


def test_norm_after_norm_without_a_linear_operation() -> None:
    body = ["h = Sigmoid(x)", norm("h", "t", "p"), norm("t", "y")]
    folded = proven_fold(model("float[1, 3, 5, 5] x", body, {**statistics(3), **statistics(3, "p", seed=20)}))
    assert folded.operators == ["Sigmoid", "BatchNormalization"]
    assert sorted(d.outcome for d in folded.decisions.values()) == ["folded", "kept"]


@pytest.mark.parametrize("between", ["Identity(h)", "Dropout(h)", "Dropout(h, ratio)", "Dropout(h, ratio, off)"])
def test_what_does_nothing_lies_between(between: str) -> None:
    extra = {"ratio": np.float32(0.5), "off": np.array(False)}
    held = constants() | {name: value for name, value in extra.items() if name in between}
    folded = proven_fold(model(IMAGE, [CONV, f"d = {between}", norm("d", "y")], held))
    assert folded.operators == ["Conv"]
    assert folded.decision.into == ("linear",)


def test_a_dropout_whose_mask_is_read() -> None:
    body = [CONV, "d, mask = Dropout(h)", norm("d", "y"), "z = Identity(mask)"]
    folded = proven_fold(model(IMAGE, body, constants(), outputs="float[] y, bool[] z"))
    assert folded.operators == ["Conv", "Dropout"]
    assert folded.decision.into == ("linear",)


@pytest.mark.parametrize("mode", ["training", "unknown"])
def test_a_dropout_in_training_mode(mode: str) -> None:
    inputs, held = IMAGE, constants(ratio=np.float32(0.5))
    if mode == "unknown":
        inputs += ", bool t"
    else:
        held["t"] = np.array(True)
    folded = only_fold(model(inputs, [CONV, "[drop] d = Dropout(h, ratio, t)", norm("d", "y")], held))
    assert folded.decision.outcome == "kept"
    assert folded.refused == {"inference-mode", "not-output"}
    assert "'drop'" in folded.because("inference-mode")


def test_new_constants_that_do_not_fit_float16() -> None:
    held = {"w": array(3, 4, 1, 1, dtype=np.float16), **statistics(3)}
    held["s"] *= 1e5
    source = model("float16[1, 4, 5, 5] x", [CONV, norm("h", "y")], held, outputs="float16[] y")
    folded = only_fold(source)
    assert folded.refused == {"representable", "not-output"}
    assert "Conv 'linear'" in folded.because("representable")
    assert "65504" in folded.because("representable")


@pytest.mark.parametrize("gain", [1.5, 3.0, 15.0])
def test_a_small_scale_that_takes_a_large_float16_weight_over_the_top(gain: float) -> None:
    held = {"w": np.full((4, 3), 60000, np.float16), "k": np.full(3, gain, np.float16)}
    folded = only_fold(model("float16[2, 4] x", ["h = MatMul(x, w)", "y = Mul(h, k)"], held, outputs="float16[] y"))
    assert "representable" in folded.refused


def test_an_alpha_that_takes_a_float16_weight_over_the_top() -> None:
    held = {"w": np.full((4, 3), 600, np.float16), "k": np.full(3, 0.5, np.float16)}
    body = ["h = Gemm <alpha = 1000.0> (x, w)", "y = Mul(h, k)"]
    folded = only_fold(model("float16[2, 4] x", body, held, outputs="float16[] y"))
    assert "representable" in folded.refused


def test_a_bias_that_does_not_fit_float16() -> None:
    held = {"w": array(3, 4, 1, 1, dtype=np.float16), **statistics(3)}
    held["b"] += 1e5
    source = model("float16[1, 4, 5, 5] x", [CONV, norm("h", "y")], held, outputs="float16[] y")
    assert "representable" in only_fold(source).refused


def test_a_norm_that_takes_a_map_stays_in_range() -> None:
    """The composed map fits float16, and so must what the norm stores to express it: 10 * 60000 does not."""
    ones = np.ones(3, np.float16)
    held = {
        "ps": ones,
        "pb": ones * 60000,
        "pm": ones * 60000,
        "pv": ones,
        "s": ones * 10,
        "b": ones,
        "m": ones,
        "v": ones,
    }
    body = ["h = Sigmoid(x)", norm("h", "t", "p"), norm("t", "y")]
    source = model("float16[1, 3, 5, 5] x", body, held, outputs="float16[] y")
    folded = only_fold(source, skip=["t_norm"])
    assert folded.operators == ["Sigmoid", "BatchNormalization"]
    stored = {node: folded.constant(node).astype(np.float64) for node in folded.result.graph.node[1].input[1:]}
    scale, bias, mean, variance = stored.values()
    factor = 1 / np.sqrt(1 + np.float64(np.float32(0.001)))
    assert np.allclose(scale / np.sqrt(variance + 0.001), 10 * factor**2, rtol=1e-3)
    shift = factor * 10 * (60000 - factor * 60000 - 1) + 1
    assert np.allclose(bias - mean * scale / np.sqrt(variance + 0.001), shift, rtol=1e-3)
