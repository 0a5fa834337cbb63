"""Mul, Add, Sub, Div, Neg and Sqrt by constants are one affine map; each place of the constant is read as it is."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from folding import array, model, norm, only_fold, proven_fold, statistics
from normfold.backends.onnx import OnnxGraph
from normfold.backends.onnx.reading.constants import Constants
from normfold.backends.onnx.reading.expressions import EXPRESSIONS
from normfold.runtime import CHECKER

CONV = "[linear] h = Conv(x, w)"
IMAGE = "float[1, 4, 5, 5] x"
WEIGHT = {"w": array(3, 4, 1, 1)}
CHANNELS = {"k": array(3, 1, 1, seed=5), "d": array(3, 1, 1, seed=6), "e": array(3, 1, 1, seed=8)}
CHAINS = {
    "caffe-scale": ["t = Mul(h, k)", "y = Add(t, d)"],
    "scale": ["y = Mul(h, k)"],
    "division": ["y = Div(h, k)"],
    "shift-then-scale": ["t = Sub(h, d)", "y = Mul(t, k)"],
    "constant-first": ["t = Mul(k, h)", "y = Add(d, t)"],
    "constant-minus": ["t = Mul(h, k)", "y = Sub(d, t)"],
    "negated": ["t = Neg(h)", "u = Mul(t, k)", "y = Neg(u)"],
    "long": ["a = Sub(d, h)", "b = Div(a, k)", "c = Neg(b)", "f = Add(e, c)", "g = Mul(e, f)", "y = Sub(g, d)"],
    "two-scales": ["t = Mul(h, k)", "y = Mul(t, e)"],
}


@pytest.mark.parametrize("case", CHAINS)
def test_chain_after_a_convolution(case: str) -> None:
    held = WEIGHT | {
        name: v for name, v in CHANNELS.items() if f"{name})" in str(CHAINS[case]) or f"({name}," in str(CHAINS[case])
    }
    folded = proven_fold(model(IMAGE, [CONV, *CHAINS[case]], held))
    assert folded.operators == ["Conv"]
    assert folded.decision.outcome == "folded"
    assert folded.decision.into == ("linear",)


@pytest.mark.parametrize("cast", ["Cast <to = 1> (zero)", "CastLike(zero, x)"])
def test_a_number_that_is_stored_as_an_integer(cast: str) -> None:
    """What torch.export makes of Python's ``0`` in ``x - 0``."""
    body = [CONV, f"z = {cast}", "t = Sub(h, z)", "y = Mul(t, k)"]
    folded = proven_fold(model(IMAGE, body, WEIGHT | {"zero": np.int64(0), "k": CHANNELS["k"]}, opset=18))
    assert folded.decision.outcome == "folded"
    assert "Mul" not in folded.operators


def test_codes_are_not_made_numbers() -> None:
    """A weight of bytes would take four times the room."""
    body = ["c = Cast <to = 1> (codes)", "h = MatMul(x, c)", "y = Mul(h, k)"]
    held = {"codes": np.arange(12, dtype=np.int8).reshape(4, 3), "k": array(3)}
    folded = proven_fold(model("float[2, 4] x", body, held))
    assert folded.operators == ["Cast", "MatMul", "Mul"]


FROZEN = [
    "ve = Add(v, eps)",
    "sd = Sqrt(ve)",
    "t = Sub(h, m)",
    "[divide] u = Div(t, sd)",
    "f = Mul(u, s)",
    "y = Add(f, b)",
]


@pytest.mark.parametrize("form", ["divide", "reciprocal", "power", "precomputed"])
def test_frozen_batch_norm_whose_deviation_is_computed_in_the_graph(form: str) -> None:
    body = list(FROZEN)
    held = (
        WEIGHT | {name: value.reshape(1, 3, 1, 1) for name, value in statistics(3).items()} | {"eps": np.float32(1e-5)}
    )
    if form == "reciprocal":
        body[3:4] = ["rs = Reciprocal(sd)", "[divide] u = Mul(t, rs)"]
    elif form == "power":
        body[1], held["half"] = "sd = Pow(ve, half)", np.float32(0.5)
    elif form == "precomputed":
        body[2:] = ["a = Div(s, sd)", "ma = Mul(m, a)", "d = Sub(b, ma)", "[divide] f = Mul(h, a)", "y = Add(f, d)"]
    folded = proven_fold(model(IMAGE, [CONV, *body], held))
    assert folded.operators == ["Conv"]
    assert folded.decision.site == "divide"
    assert {t.name for t in folded.result.graph.initializer} == set(folded.result.graph.node[0].input[1:])


def test_a_deviation_that_float16_cannot_hold_is_computed_exactly() -> None:
    held = {"w": array(3, 4, 1, 1, dtype=np.float16), "v": np.zeros((3, 1, 1), np.float16), "k": np.float16(0.001)}
    held["eps"] = np.float16(6e-8)  # the smallest number of float16, whose square root is not among its numbers
    body = [CONV, "ve = Add(v, eps)", "sd = Sqrt(ve)", "a = Div(k, sd)", "y = Mul(h, a)"]
    folded = only_fold(model("float16[1, 4, 5, 5] x", body, held, outputs="float16[] y"))
    scale = np.float64(held["k"]) / np.sqrt(np.float64(held["eps"]))
    assert np.array_equal(folded.constant("w"), (held["w"].astype("d") * scale).astype(np.float16))


@pytest.mark.parametrize(
    "shape", [(), (1,), (1, 1, 1, 1), (3, 1, 1), (1, 3, 1, 1)], ids=lambda s: "x".join(map(str, s)) or "scalar"
)
@pytest.mark.parametrize("op", ["Mul", "Div"])
def test_every_shape_that_broadcasts_to_channels(op: str, shape: tuple[int, ...]) -> None:
    folded = proven_fold(model(IMAGE, [CONV, f"y = {op}(h, k)"], WEIGHT | {"k": array(*shape, seed=3)}))
    assert folded.operators == ["Conv"]


@pytest.mark.parametrize("shape", [(5,), (5, 1), (3, 5, 1), (3, 1, 5), (1, 1, 1, 5)])
def test_a_constant_along_a_spatial_axis(shape: tuple[int, ...]) -> None:
    folded = proven_fold(model(IMAGE, [CONV, "y = Mul(h, k)"], WEIGHT | {"k": array(*shape, seed=3)}))
    assert folded.operators == ["Conv", "Mul"]
    assert folded.refused == {"per-output-channel", "not-output"}


@pytest.mark.parametrize("shape", [(3, 7, 7), (2, 3, 1, 1), (1, 1, 3, 1, 1), (3, 1, 1, 1)])
def test_a_constant_that_enlarges_its_value(shape: tuple[int, ...]) -> None:
    body = ["[linear] h = Conv(x, w)", "[grow] y = Mul(h, k)"]
    held = {"w": array(3, 4, 1, 1), "k": array(*shape, seed=3)}
    folded = proven_fold(model("float[1, 4, 1, 1] x", body, held))
    assert "Mul" in folded.operators
    assert all(d.outcome == "kept" for d in folded.decisions.values())


def test_a_constant_that_may_enlarge_its_value_before_a_norm() -> None:
    """Nothing before the addition can hold a map of what the addition makes."""
    body = ["[linear] h = Conv(x, w)", "[grow] g = Add(h, k)", norm("g", "y")]
    folded = proven_fold(model("float[1, 4, 1, 1] x", body, WEIGHT | {"k": array(3, 7, 7), **statistics(3)}))
    assert folded.decision.outcome == "kept"
    assert folded.refused == {"same-shape", "not-output"}
    assert "Add 'grow'" in folded.because("same-shape")


def test_a_constant_against_a_free_size() -> None:
    """A size that is only known at run time may be 1."""
    body = ["[linear] h = MatMul(x, w)", "[grow] g = Mul(h, k)", "u = Mul(g, k)", "y = Relu(u)"]
    folded = proven_fold(model("float[1, L, 4] x", body, {"w": array(4, 3), "k": array(2, 3, seed=2)}))
    assert "Mul" in folded.operators
    assert folded.result.graph.node[1].op_type == "Mul"


def test_a_constant_divided_by_the_value() -> None:
    body = ["[linear] h = Conv(x, w)", "p = Abs(h)", "q = Add(p, one)", "[divide] r = Div(k, q)", norm("r", "y")]
    held = WEIGHT | {"k": CHANNELS["k"], "one": np.float32(1), **statistics(3)}
    folded = proven_fold(model(IMAGE, body, held))
    assert folded.decision.outcome == "kept"
    assert folded.refused == {"affine", "not-output"}
    assert "Div 'divide'" in folded.because("affine")


def test_a_division_by_zero() -> None:
    held = WEIGHT | {"k": np.array([1, 0, 2], np.float32).reshape(3, 1, 1), **statistics(3)}
    body = [CONV, "[divide] r = Div(h, k)", norm("r", "y")]
    folded = only_fold(model(IMAGE, body, held))
    assert {p.premise for p in folded.decisions["y_norm"].refused_by} == {"finite", "not-output"}


@pytest.mark.parametrize("number", [np.inf, np.nan])
def test_a_scale_that_is_not_a_number(number: float) -> None:
    held = WEIGHT | {"k": np.array([1, number, 2], np.float32).reshape(3, 1, 1)}
    folded = only_fold(model(IMAGE, [CONV, "y = Mul(h, k)"], held))
    assert "finite" in folded.refused
    assert folded.operators == ["Conv", "Mul"]


def test_a_scale_of_integers() -> None:
    """Nothing divides integers as an affine map does."""
    body = ["h = MatMulInteger(x, w)", "[scale] g = Mul(h, k)", "f = Cast <to = 1> (g)", norm("f", "y")]
    held = {"w": np.ones((4, 3), np.int8), "k": np.array([2, 3, 4], np.int32), **statistics(3)}
    folded = only_fold(model("int8[5, 4] x", body, held))
    assert folded.decision.outcome == "kept"


def test_an_integer_weight() -> None:
    body = ["[linear] h = MatMul(x, w)", "y = Mul(h, k)"]
    held = {"w": np.ones((4, 3), np.int32), "k": np.array([2, 3, 4], np.int32)}
    folded = only_fold(model("int32[5, 4] x", body, held, outputs="int32[] y"))
    assert folded.operators == ["MatMul", "Mul"]


def test_a_chain_before_a_norm_joins_it() -> None:
    body = [CONV, "t = Mul(h, k)", "u = Add(t, d)", norm("u", "n"), "[after] f = Mul(n, e)", "y = Sub(f, d)"]
    folded = proven_fold(model(IMAGE, body, WEIGHT | CHANNELS | statistics(3)))
    assert folded.operators == ["Conv"]
    assert {d.outcome for d in folded.decisions.values()} == {"folded"}


def test_a_shift_alone_after_a_matmul_is_no_norm() -> None:
    folded = proven_fold(
        model("float[2, 5, 4] x", ["h = MatMul(x, w)", "y = Add(h, c)"], {"w": array(4, 3), "c": array(3)})
    )
    assert folded.decisions == {}
    assert folded.operators == ["MatMul", "Add"]


def test_a_long_row_of_additions_ends() -> None:
    """Each addition may go or stay, which must not multiply."""
    names = ["h", *(f"a{k}" for k in range(40)), "y"]
    body = ["h = Sigmoid(x)", *(f"{after} = Add({before}, d)" for before, after in pairwise(names))]
    body[-1] = f"y = BatchNormalization({names[-2]}, s, b, m, v)"
    folded = only_fold(model("float[1, 3, 5, 5] x", body, {"d": array(3, 1, 1), **statistics(3)}))
    assert len(folded.decisions) == 1


WHOLE = {
    "Add(a, b)": {},
    "Sub(a, b)": {},
    "Mul(a, b)": {},
    "Div(a, b)": {},
    "Mod(a, b)": {},
    "Mod <fmod = 1> (a, b)": {},
    "Neg(a)": {},
    "Slice(a, p, q)": {"p": [1], "q": [3]},
    "Slice(a, p, q, r, s)": {"p": [-1], "q": [-(2**63) + 1], "r": [0], "s": [-2]},
    "Slice(a, p, q, r, s)#": {"p": [3], "q": [-5], "r": [-1], "s": [-1]},
    "Cast <to = 6> (a)": {},
}


@pytest.mark.parametrize("step", WHOLE)
@pytest.mark.parametrize("kind", [np.int32, np.int64])
def test_arithmetic_of_sizes_is_that_of_the_specification(step: str, kind: type) -> None:
    held = {"a": np.array([7, -7, 6, -1, 0], kind), "b": np.array([3, 3, -4, -2, 5], kind)}
    held |= {name: np.asarray(values) for name, values in WHOLE[step].items()}
    text = step.rstrip("#")
    used = {name: values for name, values in held.items() if name in text.partition("(")[2]}
    source = model("float[2] x", [f"c = {text}", "y = Identity(c)"], used, outputs="int64[] y")
    (expected,) = ReferenceEvaluator(source).run(["c"], {"x": np.zeros(2, np.float32)})
    graph = OnnxGraph(ir.from_proto(source), CHECKER.infer)
    value = next(node.outputs[0] for node in graph.model.graph if node.outputs[0].name == "c")
    found = graph._constants.find(value)
    assert not isinstance(found, str), found
    assert found.numpy().dtype == expected.dtype
    assert np.array_equal(found.numpy(), expected)


def test_a_size_divided_by_zero_is_not_known() -> None:
    source = model("float[2] x", ["c = Div(a, b)", "y = Reshape(x, c)"], {"a": np.array([2]), "b": np.array([0])})
    graph = OnnxGraph(ir.from_proto(source), CHECKER.infer)
    found = graph._constants.find(graph.model.graph[0].outputs[0])
    assert found == "'c' cannot be computed by Div: a division by zero"


def test_what_was_found_once_is_found_again() -> None:
    """A weight is read when a fold is planned and when it is written; between them others may use up the budget."""
    body = ["a = Mul(w, w)", "b = Add(w, w)", "c = Mul(a, b)", "y = Conv(x, c)"]
    held = ir.from_proto(model("float[1, 3, 4, 4] x", body, {"w": array(3, 3, 1, 1)}))
    constants = Constants(lambda _: False, EXPRESSIONS, lambda _: None, budget=10)
    _, b, c = (node.outputs[0] for node in held.graph if node.op_type != "Conv")
    assert not isinstance(constants.find(b), str)
    constants.forget_expressions()
    assert "over 10 elements" in str(constants.find(c))
    constants.forget(b)
    assert isinstance(constants.find(b), str)
    np.testing.assert_array_equal(constants.again(b).numpy(), 2 * array(3, 3, 1, 1))
    with pytest.raises(TypeError, match="over 10 elements"):
        constants.again(c)
