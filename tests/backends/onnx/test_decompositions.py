"""Norms that exporters write in elementary operations, and what becomes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from folding import Folded, array, model, only_fold, proven_fold
from normfold.backends.onnx import OnnxGraph
from normfold.runtime import CHECKER

TOKENS = "float[2, 5, 8] x"
IMAGE = "float[2, 4, 5, 6] x"
HELD = {
    "eps": np.float32(1e-3), "two": np.float32(2), "half": np.float32(0.5), "minus": np.float32(-0.5),
    "one": np.float32(1), "last": np.array([-1]), "g": array(8), "b": array(8, seed=2),
}  # fmt: skip


def decomposed(
    inputs: str, lines: Sequence[str], held: Mapping[str, np.ndarray] | None = None, *, opset: int = 17, **options: str
) -> onnx.ModelProto:
    """A model of these lines with those of the constants that they read."""
    words = " ".join(lines).replace("(", " ").replace(")", " ").replace(",", " ").split()
    constants = {name: values for name, values in {**HELD, **(held or {})}.items() if name in words}
    return model(inputs, lines, constants, opset=opset, **options)


def centred(axes: str = "-1", x: str = "x") -> list[str]:
    return [f"mu = ReduceMean <axes = [{axes}]> ({x})", f"c = Sub({x}, mu)"]


def variance(axes: str = "-1", square: str = "Pow(c, two)") -> list[str]:
    return [f"sq = {square}", f"v0 = ReduceMean <axes = [{axes}]> (sq)", "v1 = Add(v0, eps)"]


LAYER = [*centred(), *variance()]
DEVIATION = "sd = Sqrt(v1)"
TAIL = ["s1 = Mul(n, g)", "y = Add(s1, b)"]
KERAS = [*centred(), *variance(square="Mul(c, c)"), DEVIATION, "r = Reciprocal(sd)"]
MEAN = "ReduceMean <axes = [-1]>"
FORMS = {
    "torch": [*LAYER, DEVIATION, "n = Div(c, sd)", *TAIL],
    "reciprocal": [*LAYER, DEVIATION, "r = Reciprocal(sd)", "n = Mul(c, r)", *TAIL],
    "power": [*LAYER, "r = Pow(v1, minus)", "n = Mul(r, c)", *TAIL],
    "one-over": [*LAYER, "sd = Pow(v1, half)", "r = Div(one, sd)", "n = Mul(c, r)", "s1 = Mul(g, n)", "y = Add(b, s1)"],
    "scale-inside": [*LAYER, DEVIATION, "r = Reciprocal(sd)", "k = Mul(r, g)", "n = Mul(c, k)", "y = Add(n, b)"],
    "tensorflow": [*KERAS, "k = Mul(r, g)", "p = Mul(x, k)", "q = Mul(mu, k)", "t = Sub(b, q)", "y = Add(p, t)"],
    "keras-3": [
        *KERAS, "k = Mul(g, r)", "m1 = Neg(mu)", "q = Mul(m1, k)", "t = Add(q, b)", "p = Mul(x, k)", "y = Add(p, t)"
    ],
    "negated-product": [
        *KERAS, "k = Mul(r, g)", "q = Mul(k, mu)", "m1 = Neg(q)", "t = Add(b, m1)", "p = Mul(x, k)", "y = Add(t, p)"
    ],
    "moments": [
        f"mu = {MEAN} (x)", "xx = Mul(x, x)", f"mxx = {MEAN} (xx)", "mm = Mul(mu, mu)", "v0 = Sub(mxx, mm)",
        "v1 = Add(v0, eps)", DEVIATION, "c = Sub(x, mu)", "n = Div(c, sd)", *TAIL,
    ],
    "difference-twice": [*LAYER, DEVIATION, "c2 = Sub(x, mu)", "n = Div(c2, sd)", *TAIL],
    "mean-twice": [*LAYER, DEVIATION, f"mu2 = {MEAN} (x)", "c2 = Sub(x, mu2)", "n = Div(c2, sd)", *TAIL],
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_layer_norm_with_scale_and_bias(form: str) -> None:
    folded = proven_fold(decomposed(TOKENS, FORMS[form]))
    assert folded.operators == ["LayerNormalization"]
    assert folded.decision.norm == "LayerNormalization (decomposed)"
    assert folded.decision.outcome == "lowered"
    assert folded.decision.rules == ("emit_norm",)
    node = folded.result.graph.node[0]
    np.testing.assert_array_equal(folded.constant(node.input[1]), HELD["g"])
    np.testing.assert_array_equal(folded.constant(node.input[2]), HELD["b"])
    assert {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute} == {"axis": -1, "epsilon": HELD["eps"]}


@pytest.mark.parametrize("last", ["y = Sub(p, q)", "m1 = Neg(q)\ny = Add(p, m1)"])
def test_layer_norm_without_scale_and_bias(last: str) -> None:
    folded = proven_fold(decomposed(TOKENS, [*KERAS, "p = Mul(x, r)", "q = Mul(mu, r)", *last.split("\n")]))
    assert folded.operators == ["LayerNormalization"]
    assert len(folded.result.graph.node[0].input) == 2


def test_axes_as_an_input() -> None:
    lines = [
        "mu = ReduceMean(x, last)",
        "c = Sub(x, mu)",
        "sq = Pow(c, two)",
        "v0 = ReduceMean(sq, last)",
        "v1 = Add(v0, eps)",
    ]
    folded = proven_fold(decomposed(TOKENS, [*lines, "sd = Sqrt(v1)", "y = Div(c, sd)"], opset=18))
    assert folded.operators == ["LayerNormalization"]


@pytest.mark.parametrize("axes", ["1, 2", "-2, -1", "-1, -2"])
def test_several_trailing_axes(axes: str) -> None:
    lines = [*centred(axes), *variance(axes), "sd = Sqrt(v1)", "n = Div(c, sd)", "s1 = Mul(n, k)", "y = Add(s1, k)"]
    folded = proven_fold(decomposed(TOKENS, lines, {"k": array(5, 8)}))
    assert folded.operators == ["LayerNormalization"]


def test_channels_last_between_the_transposes_that_are_there() -> None:
    """A ConvNeXt block: the norm's scale and bias go through the second transpose into the next linear operation."""
    lines = [
        "x1 = Transpose <perm = [0, 2, 3, 1]> (x)",
        *centred(x="x1"), *variance(), "sd = Sqrt(v1)", "n = Div(c, sd)", "s1 = Mul(n, k)", "s2 = Add(s1, j)",
        "t = Transpose <perm = [0, 3, 1, 2]> (s2)", "[conv] y = Conv(t, u)",
    ]  # fmt: skip
    folded = proven_fold(decomposed(IMAGE, lines, {"k": array(4), "j": array(4, seed=1), "u": array(3, 4, 1, 1)}))
    assert folded.operators == ["Transpose", "LayerNormalization", "Transpose", "Conv"]
    assert folded.decision.outcome == "part-folded"
    assert "conv" in folded.decision.into


def heads() -> list[str]:
    """A pre-norm attention block, whose norm feeds Q, K and V."""
    return [
        "mu = ReduceMean <axes = [-1]> (x)", "c = Sub(x, mu)", "sq = Pow(c, two)", "v0 = ReduceMean <axes = [-1]> (sq)",
        "v1 = Add(v0, eps)", "sd = Sqrt(v1)", "[norm] n = Div(c, sd)", "s1 = Mul(n, g)", "s2 = Add(s1, b)",
        "[q] q0 = MatMul(s2, wq)", "q1 = Add(q0, bq)", "[k] k0 = MatMul(s2, wk)", "k1 = Add(k0, bk)",
        "[v] w0 = MatMul(s2, wv)", "w1 = Add(w0, bv)", "kt = Transpose <perm = [0, 2, 1]> (k1)",
        "a = MatMul(q1, kt)", "p = Softmax(a)", "o = MatMul(p, w1)", "[out] z = MatMul(o, wo)", "y = Add(z, x)",
    ]  # fmt: skip


BLOCK = {f"w{k}": array(8, 8, seed=n, low=0.05, high=0.3) for n, k in enumerate("qkvo")} | {
    f"b{k}": array(8, seed=10 + n) for n, k in enumerate("qkv")
}


def test_a_transformer_block_folds_into_query_key_and_value() -> None:
    folded = proven_fold(decomposed(TOKENS, heads(), BLOCK))
    decision = folded.decisions["norm"]
    assert decision.outcome == "part-folded"
    assert {"q", "k", "v"} <= set(decision.into)
    assert decision.rules[0] == "emit_norm"
    node = next(node for node in folded.result.graph.node if node.op_type == "LayerNormalization")
    assert (folded.constant(node.input[1]) == 1).all()
    assert not folded.constant(node.input[2]).any()


def test_below_the_opset_the_scale_and_bias_fold_all_the_same() -> None:
    folded = proven_fold(decomposed(TOKENS, heads(), BLOCK, opset=16))
    written = ["ReduceMean", "Sub", "Pow", "ReduceMean", "Add", "Sqrt", "Div"]
    assert folded.operators[: len(written) + 1] == [*written, "MatMul"]
    assert folded.decision.outcome == "part-folded"
    assert {"q", "k", "v"} <= set(folded.decision.into)
    assert folded.refused == {"fixed-statistics", "opset-has-operator"}
    assert "export with opset 17 or newer" in folded.because("opset-has-operator")


PRODUCT = {"w": array(8, 6, seed=3, low=0.05, high=0.3), "cc": array(6, seed=4)}


def before_a_product(lines: Sequence[str], *, bias: bool = True, opset: int = 16) -> onnx.ModelProto:
    """A norm whose output ``y`` a matrix product reads."""
    behind = ["[product] z = MatMul(y, w)", "o = Add(z, cc)"] if bias else ["[product] o = MatMul(y, w)"]
    return decomposed(TOKENS, [*lines, *behind], PRODUCT, opset=opset, outputs="float[2, 5, 6] o")


def constants_behind(folded: Folded) -> list[str]:
    """What is left of the scale and shift: constants of eight channels that arithmetic reads."""
    vectors = {t.name for t in folded.result.graph.initializer if list(t.dims) == [8]}
    return [node.op_type for node in folded.result.graph.node if vectors & set(node.input)]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_its_scale_and_bias_away(form: str, bias: bool) -> None:
    source = before_a_product(FORMS[form], bias=bias)
    folded = proven_fold(source)
    assert not constants_behind(folded)
    assert folded.decision.outcome == "part-folded"
    assert "product" in folded.decision.into
    # Without a bias there, one addition comes for the multiplication and the addition that go.
    assert len(folded.operators) <= len(source.graph.node) - bias
    assert folded.operators[-2:] == ["MatMul", "Add"]


@pytest.mark.parametrize("form", ["div", "reciprocal", "scale-inside", "power"])
def test_every_form_of_rms_norm_gives_its_scale_away(form: str) -> None:
    folded = proven_fold(before_a_product(RMS_FORMS[form], bias=False, opset=22))
    assert not constants_behind(folded)
    assert folded.operators[-1] == "MatMul"
    assert folded.refused == {"fixed-statistics", "opset-has-operator"}


def test_what_carries_a_scale_inside_of_a_norm_loses_its_shape_and_its_name() -> None:
    """Without the scale, the products inside are of one column: what a file says of them is no longer so."""
    source = onnx.shape_inference.infer_shapes(before_a_product(FORMS["tensorflow"]))
    folded = proven_fold(source)
    names = {value.name for node in folded.result.graph.node for value in folded.result.graph.value_info}
    assert {"k", "p", "q", "t"}.isdisjoint(names)
    assert not {"k", "q", "t"} & {name for node in folded.result.graph.node for name in node.output}


def test_a_scale_inside_stays_where_the_scaled_deviation_is_read() -> None:
    lines = [*FORMS["scale-inside"], "e = Relu(k)"]
    source = before_a_product(lines)
    source.graph.output.append(onnx.helper.make_tensor_value_info("e", onnx.TensorProto.FLOAT, [2, 5, 8]))
    folded = proven_fold(source)
    assert "Mul" in constants_behind(folded)
    assert "single-use" in folded.refused


def test_a_scale_inside_that_may_enlarge_the_input_stays() -> None:
    lines = [line.replace("(x,", "(x,") for line in FORMS["scale-inside"]]
    source = decomposed("float[2, 5, D] x", [*lines, "o = MatMul(y, w)"], PRODUCT, opset=16, outputs="float[2, 5, 6] o")
    folded = proven_fold(source, feeds={"x": array(2, 5, 1)})
    assert "same-shape" in folded.refused
    assert "Mul" in constants_behind(folded)


def test_a_scale_inside_that_is_applied_twice_stays() -> None:
    """``x*(r*g) - mean*r*g``: no one operation applies the scale."""
    lines = [*KERAS, "k = Mul(r, g)", "p = Mul(x, k)", "k2 = Mul(mu, g)", "q = Mul(k2, r)", "y = Sub(p, q)"]
    folded = proven_fold(before_a_product(lines))
    assert not constants_behind(folded)
    apart = [*KERAS, "k = Mul(r, g)", "p = Mul(x, k)", "k2 = Mul(mu, g2)", "k3 = Mul(k2, g2)", "q = Mul(k3, r)"]
    held = {**PRODUCT, "g": np.full(8, 4, "f"), "g2": np.full(8, 2, "f")}
    source = decomposed(
        TOKENS, [*apart, "y = Sub(p, q)", "o = MatMul(y, w)"], held, opset=16, outputs="float[2, 5, 6] o"
    )
    folded = proven_fold(source)
    assert "room" in folded.refused
    assert "Mul" in constants_behind(folded)


def test_a_shift_that_is_subtracted_from() -> None:
    lines = [*KERAS, "k = Mul(r, g)", "p = Mul(x, k)", "q = Mul(mu, k)", "t = Sub(q, b)", "y = Sub(p, t)"]
    folded = proven_fold(before_a_product(lines))
    assert not constants_behind(folded)


JAX = [
    "s = ReduceSum <axes = [2], keepdims = 0> (x)", "xx = Mul(x, x)", "s2 = ReduceSum <axes = [2], keepdims = 0> (xx)",
    "mu0 = Mul(s, eighth)", "q0 = Mul(s2, eighth)", "mm = Mul(mu0, mu0)", "d = Sub(q0, mm)", "v0 = Max(zero, d)",
    "v2 = Reshape(v0, kept)", "v3 = Expand(v2, kept)", "v1 = Add(v3, eps)", DEVIATION, "r = Reciprocal(sd)",
    "k = Mul(r, g3)", "m2 = Reshape(mu0, kept)", "mu = Expand(m2, kept)", "c = Sub(x, mu)", "n = Mul(c, k)",
    "y = Add(n, b3)",
]  # fmt: skip
JAX_HELD = {
    "eighth": np.float32(1 / 8), "zero": np.float32(0), "kept": np.array([2, 5, 1]), "g3": array(1, 1, 8),
    "b3": array(1, 1, 8, seed=2),
}  # fmt: skip


def jax(opset: int = 12, inputs: str = TOKENS, behind: Sequence[str] = (), **held: np.ndarray) -> onnx.ModelProto:
    """What jax2tf and tf2onnx make of a LayerNorm of flax."""
    lines = JAX
    if opset > 12:
        lines = [line.replace(" <axes = [2], keepdims = 0> (", " <keepdims = 0> (") for line in JAX]
        lines = [line.replace("ReduceSum <keepdims = 0> (x)", "ReduceSum <keepdims = 0> (x, two_)") for line in lines]
        lines = [line.replace("ReduceSum <keepdims = 0> (xx)", "ReduceSum <keepdims = 0> (xx, two_)") for line in lines]
    return decomposed(
        inputs, [*lines, *behind], {**JAX_HELD, **PRODUCT, "two_": np.array([2]), **held}, opset=opset,
        outputs="float[2, 5, 6] o" if behind else "float[2, 5, 8] y",
    )  # fmt: skip


def test_layer_norm_of_jax() -> None:
    folded = proven_fold(jax(17))
    assert folded.operators == ["LayerNormalization"]
    node = folded.result.graph.node[0]
    np.testing.assert_array_equal(folded.constant(node.input[1]), JAX_HELD["g3"].reshape(-1))


@pytest.mark.parametrize("opset", [12, 15])
def test_the_tail_of_a_layer_norm_of_jax(opset: int) -> None:
    folded = proven_fold(jax(opset, behind=["[product] z = MatMul(y, w)", "o = Add(z, cc)"]))
    assert folded.decision.outcome == "part-folded"
    assert "product" in folded.decision.into
    assert "g3" not in {t.name for t in folded.result.graph.initializer}
    assert folded.operators[-3:] == ["Mul", "MatMul", "Add"]


def test_a_size_taken_from_the_input_itself() -> None:
    """The batch is copied into the list of sizes at run time."""
    lines = [
        "size = Shape(x)", "size32 = Cast <to = 6> (size)", "first = Slice(size32, at0, at1, at0)",
        "list = Concat <axis = 0> (first, five, one_)", "kept = Cast <to = 7> (list)",
        *(line for line in JAX),
    ]  # fmt: skip
    held = {
        **{k: v for k, v in JAX_HELD.items() if k != "kept"}, **PRODUCT, "at0": np.array([0]), "at1": np.array([1]),
        "five": np.array([5], np.int32), "one_": np.array([1], np.int32),
    }  # fmt: skip
    behind = ["[product] z = MatMul(y, w)", "o = Add(z, cc)"]
    source = decomposed("float[B, 5, 8] x", [*lines, *behind], held, opset=12, outputs="float[B, 5, 6] o")
    folded = proven_fold(source)
    assert folded.decision.outcome == "part-folded"
    assert "product" in folded.decision.into


def test_statistics_that_may_be_broadcast_further_are_no_operator() -> None:
    """With one row, the statistics would be repeated for the two that are asked for."""
    source = jax(17, "float[B, 5, 8] x", kept=np.array([-1, 5, 1]), two_=np.array([2]))
    for node in source.graph.node:
        if node.op_type == "Expand":
            node.input[1] = "wide"
    source.graph.initializer.append(onnx.numpy_helper.from_array(np.array([2, 5, 1]), "wide"))
    folded = proven_fold(source, feeds={"x": array(1, 5, 8)})
    assert "same-shape" in folded.refused
    assert "LayerNormalization" not in folded.operators


def test_sizes_that_a_caller_may_set_are_not_known() -> None:
    """Whoever gives other ones gets another shape."""
    source = jax(17)
    source.graph.input.append(onnx.helper.make_tensor_value_info("kept", onnx.TensorProto.INT64, [3]))
    folded = proven_fold(source)
    assert not any("decomposed" in decision.norm for decision in folded.decisions.values())
    assert [value.name for value in folded.result.graph.input] == ["x", "kept"]


OTHER_SPELLINGS = {
    "moments-of-tensorflow": [
        "mu = ReduceMean <axes = [2], keepdims = 1> (x)", "c = Sub(x, mu)", "sq = Mul(c, c)",
        "v0 = ReduceMean <axes = [2], keepdims = 0> (sq)", "vs = Add(v0, eps)", "v1 = Unsqueeze(vs, last)",
        "sd = Sqrt(v1)", "r = Reciprocal(sd)", "k = Mul(r, g)", "p = Mul(x, k)", "q = Mul(mu, k)", "t = Sub(b, q)",
        "y = Add(p, t)",
    ],
    "paddle": [
        *centred(), "sq = Pow(c, two1)", f"v0 = {MEAN} (sq)", "v1 = Add(v0, eps1)", DEVIATION, "n = Div(c, sd)", *TAIL,
    ],
    "difference-turned": [
        f"mu = {MEAN} (x)", "c = Sub(mu, x)", "sq = Mul(c, c)", f"v0 = {MEAN} (sq)", "v1 = Add(v0, eps)", DEVIATION,
        "m = Neg(c)", "n = Div(m, sd)", *TAIL,
    ],
    "sum-over-a-count": [
        "s = ReduceSum(x, last)", "mu = Div(s, eight)", "c = Sub(x, mu)", "sq = Mul(c, c)", "s2 = ReduceSum(sq, last)",
        "v0 = Div(s2, eight)", "v1 = Add(v0, eps)", DEVIATION, "n = Div(c, sd)", *TAIL,
    ],
    "relu-of-the-variance": [
        f"mu = {MEAN} (x)", "xx = Mul(x, x)", f"q = {MEAN} (xx)", "mm = Mul(mu, mu)", "d = Sub(q, mm)", "v0 = Relu(d)",
        "v1 = Add(v0, eps)", DEVIATION, "c = Sub(x, mu)", "n = Div(c, sd)", *TAIL,
    ],
    "clip-of-the-variance": [
        f"mu = {MEAN} (x)", "xx = Mul(x, x)", f"q = {MEAN} (xx)", "mm = Mul(mu, mu)", "d = Sub(q, mm)",
        "v0 = Clip(d, zero)", "v1 = Add(v0, eps)", DEVIATION, "c = Sub(x, mu)", "n = Div(c, sd)", *TAIL,
    ],
    "copied-in-its-own-type": [*LAYER, DEVIATION, "n0 = Div(c, sd)", "n = Cast <to = 1> (n0)", *TAIL],
    "two-reciprocals": [*LAYER, DEVIATION, "r = Reciprocal(sd)", "s = Reciprocal(r)", "n = Div(c, s)", *TAIL],
}  # fmt: skip
SPELLED = {"two1": np.array([2], "f"), "eps1": np.array([1e-5], "f"), "eight": np.float32(8), "zero": np.float32(0)}


@pytest.mark.parametrize("form", OTHER_SPELLINGS)
def test_other_spellings(form: str) -> None:
    folded = proven_fold(decomposed(TOKENS, OTHER_SPELLINGS[form], SPELLED))
    assert folded.operators == ["LayerNormalization"]


def test_a_norm_that_was_left_out_stays_written_out() -> None:
    folded = proven_fold(decomposed(TOKENS, FORMS["torch"]), skip=["n"])
    assert folded.operators[-3:] == ["Div", "Mul", "Add"]
    assert folded.refused == {"selected"}


RMS = ["sq = Pow(x, two)", "v0 = ReduceMean(sq, last)", "v1 = Add(v0, eps)", "sd = Sqrt(v1)"]
RMS_FORMS = {
    "div": [*RMS, "n = Div(x, sd)", "y = Mul(n, g)"],
    "reciprocal": [*RMS, "r = Reciprocal(sd)", "n = Mul(x, r)", "y = Mul(g, n)"],
    "scale-inside": [*RMS, "r = Reciprocal(sd)", "k = Mul(r, g)", "y = Mul(x, k)"],
    "power": [*RMS[:3], "r = Pow(v1, minus)", "n = Mul(x, r)", "y = Mul(n, g)"],
}


@pytest.mark.parametrize("form", RMS_FORMS)
def test_rms_norm(form: str) -> None:
    folded = proven_fold(decomposed(TOKENS, RMS_FORMS[form], opset=23, ir_version=11), reference=True)
    assert folded.operators == ["RMSNormalization"]
    assert folded.decision.outcome == "lowered"


def test_a_shift_after_an_rms_norm_stays_outside() -> None:
    folded = proven_fold(
        decomposed(TOKENS, [*RMS, "n = Div(x, sd)", "y = Add(n, b)"], opset=23, ir_version=11), reference=True
    )
    assert folded.operators == ["RMSNormalization", "Add"]


LLAMA = [
    "x0 = Cast <to = 1> (x)", "sq = Pow(x0, two)", "v0 = ReduceMean(sq, last)", "v1 = Add(v0, eps)", "sd = Sqrt(v1)",
    "r = Reciprocal(sd)", "n0 = Mul(x0, r)", "n = Cast <to = 10> (n0)", "y = Mul(g16, n)",
]  # fmt: skip


def test_rms_norm_in_float32_between_casts() -> None:
    """What LLaMA does in half precision is what the operator does by itself: statistics in float32."""
    source = decomposed(
        "float16[2, 5, 8] x",
        LLAMA,
        {"g16": array(8, dtype=np.float16)},
        opset=23,
        ir_version=11,
        outputs="float16[2, 5, 8] y",
    )
    folded = proven_fold(source)
    assert folded.operators == ["RMSNormalization"]


def test_float32_that_is_not_left_again_is_no_part_of_the_norm() -> None:
    lines = [*LLAMA[:-2], "y = Mul(n0, g)"]
    folded = proven_fold(decomposed("float16[2, 5, 8] x", lines, opset=23, ir_version=11))
    assert folded.operators == ["Cast", "RMSNormalization"]


def test_layer_norm_in_half_precision_with_float32_statistics() -> None:
    lines = [
        *centred(), "c0 = Cast <to = 1> (c)", *variance(square="Pow(c0, two)"), "sd = Sqrt(v1)", "n0 = Div(c0, sd)",
        "n = Cast <to = 10> (n0)", "s1 = Mul(n, g16)", "y = Add(s1, g16)",
    ]  # fmt: skip
    source = decomposed("float16[2, 5, 8] x", lines, {"g16": array(8, dtype=np.float16)}, outputs="float16[2, 5, 8] y")
    assert proven_fold(source).operators == ["LayerNormalization"]


SPACE = [*centred("2, 3"), *variance("2, 3"), "sd = Sqrt(v1)", "n = Div(c, sd)"]


@pytest.mark.parametrize(
    "tail", [["s1 = Mul(n, k)", "y = Add(s1, k)"], ["y = Mul(n, k)"], ["y = Add(n, k)"], ["y = Relu(n)"]]
)
def test_instance_norm(tail: list[str]) -> None:
    folded = proven_fold(decomposed(IMAGE, [*SPACE, *tail], {"k": array(4, 1, 1)}))
    assert folded.operators[0] == "InstanceNormalization"
    assert folded.decision.norm == "InstanceNormalization (decomposed)"
    assert len(folded.operators) == (2 if tail == ["y = Relu(n)"] else 1)


def test_over_space_with_a_scale_for_each_position_is_a_layer_norm() -> None:
    folded = proven_fold(decomposed(IMAGE, [*SPACE, "y = Mul(n, k)"], {"k": array(5, 6)}))
    assert folded.operators == ["LayerNormalization"]


def test_a_tail_that_does_not_fit_stays_outside() -> None:
    lines = [*centred(), *variance(), "sd = Sqrt(v1)", "n = Div(c, sd)", "y = Mul(n, k)"]
    folded = proven_fold(decomposed(TOKENS, lines, {"k": array(5, 8)}))
    assert folded.operators == ["LayerNormalization", "Mul"]


def test_a_tail_by_channel_makes_it_an_instance_norm() -> None:
    lines = [*centred(), *variance(), "sd = Sqrt(v1)", "n = Div(c, sd)", "y = Mul(n, k)"]
    folded = proven_fold(decomposed(TOKENS, lines, {"k": array(5, 1)}))
    assert folded.operators == ["InstanceNormalization"]


DOUBLE = {"eps": np.float64(2.0**-10), "two": np.float64(2)}


def test_double_precision_stays_double() -> None:
    lines = [*centred(), *variance(), "sd = Sqrt(v1)", "y = Div(c, sd)"]
    folded = proven_fold(decomposed("double[2, 5, 8] x", lines, DOUBLE, outputs="double[2, 5, 8] y"))
    assert folded.operators == ["LayerNormalization"]


REFUSED: dict[str, tuple[str, list[str], dict[str, np.ndarray], dict[str, object]]] = {
    "single-use": (TOKENS, [*FORMS["torch"], "z = Relu(sd)"], {}, {"outputs": "float[] y, float[] z"}),
    "trailing-axes": (
        IMAGE, [*centred("1"), *variance("1"), "sd = Sqrt(v1)", "y = Div(c, sd)"], {}, {}
    ),
    "opset-has-operator": (TOKENS, FORMS["torch"], {}, {"opset": 16}),
    "known-sizes": ("float[2, 5, D] x", [*centred(), *variance(), "sd = Sqrt(v1)", "y = Div(c, sd)"], {}, {}),
    "has-kernel": (
        "float16[2, 4, 5, 6] x", [*SPACE[:-1], "y = Div(c, sd)"], {"eps": np.float16(1e-3), "two": np.float16(2)},
        {"outputs": "float16[2, 4, 5, 6] y"},
    ),
    "representable": (
        "double[2, 5, 8] x", [*centred(), *variance(), "sd = Sqrt(v1)", "y = Div(c, sd)"],
        {"eps": np.float64(1e-3), "two": np.float64(2)}, {"outputs": "double[2, 5, 8] y"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("premise", REFUSED)
def test_each_premise(premise: str) -> None:
    inputs, lines, held, options = REFUSED[premise]
    source = decomposed(inputs, lines, held, **options)  # type: ignore[arg-type]
    folded = only_fold(source)
    assert folded.operators == [node.op_type for node in source.graph.node]
    assert folded.refused - BEHIND == {"fixed-statistics", premise}


BEHIND = {"not-output", "room"}
"""Why what follows such a norm stays: its output is the model's, and what is written out has no room."""


def test_an_unknown_rank() -> None:
    lines = ["x1 = Opaque(x)", *centred("2", "x1"), *variance("2"), "sd = Sqrt(v1)", "y = Div(c, sd)"]
    lines[0] = "x1 = other.Opaque(x)"
    folded = only_fold(decomposed(TOKENS, lines, imports='"other" : 1', outputs="float[2, 5, 8] y"))
    assert folded.refused == {"fixed-statistics", "known-rank"}


NO_NORMS = {
    "another-mean": [
        *LAYER, DEVIATION, "mu2 = ReduceMean <axes = [1]> (x)", "c2 = Sub(x, mu2)", "y = Div(c2, sd)"
    ],
    "not-centred": [*LAYER, DEVIATION, "y = Div(x, sd)"],
    "reduced-axis-lost": [
        "sq = Pow(x, two)", "v0 = ReduceMean <axes = [1, 2], keepdims = 0> (sq)", "v1 = Add(v0, eps)", DEVIATION,
        "xt = Transpose <perm = [1, 2, 0]> (x)", "y = Div(xt, sd)",
    ],
    "sum-for-mean": [
        *centred(), "sq = Pow(c, two)", "v0 = ReduceSum(sq, last)", "v1 = Add(v0, eps)", DEVIATION, "y = Div(c, sd)"
    ],
    "max-of-another-number": [
        f"mu = {MEAN} (x)", "xx = Mul(x, x)", f"q = {MEAN} (xx)", "mm = Mul(mu, mu)", "d = Sub(q, mm)",
        "v0 = Max(d, eps)", "v1 = Add(v0, eps)", DEVIATION, "c = Sub(x, mu)", "y = Div(c, sd)",
    ],
    "clipped-above": [
        f"mu = {MEAN} (x)", "xx = Mul(x, x)", f"q = {MEAN} (xx)", "mm = Mul(mu, mu)", "d = Sub(q, mm)",
        "v0 = Clip(d, eps, two)", "v1 = Add(v0, eps)", DEVIATION, "c = Sub(x, mu)", "y = Div(c, sd)",
    ],
    "no-epsilon": [*centred(), *variance()[:2], "sd = Sqrt(v0)", "y = Div(c, sd)"],
    "half-the-mean": [
        f"mu = {MEAN} (x)", "mu2 = Mul(mu, half)", "c = Sub(x, mu2)", "sq = Mul(c, c)", f"v0 = {MEAN} (sq)",
        "v1 = Add(v0, eps)", DEVIATION, "c2 = Sub(x, mu)", "y = Div(c2, sd)",
    ],
    "another-epsilon": [
        *LAYER, DEVIATION, "v9 = Add(v0, half)", "sd9 = Sqrt(v9)", "r9 = Reciprocal(sd9)", "p = Mul(x, r9)",
        "q = Div(mu, sd)", "y = Sub(p, q)",
    ],
    "an-epsilon-that-is-computed": [
        *centred(), "sq = Pow(c, two)", f"v0 = {MEAN} (sq)", "e = Abs(mu)", "v1 = Add(v0, e)", DEVIATION,
        "y = Div(c, sd)",
    ],
    "another-shift": [*KERAS, "k = Mul(r, g)", "p = Mul(x, k)", "q = Mul(x, k)", "t = Sub(b, q)", "y = Add(p, t)"],
}  # fmt: skip


@pytest.mark.parametrize("case", NO_NORMS)
def test_what_only_looks_like_a_norm(case: str) -> None:
    source = decomposed(TOKENS, NO_NORMS[case])
    folded = proven_fold(source)
    assert "LayerNormalization" not in folded.operators
    assert not any("decomposed" in decision.norm for decision in folded.decisions.values())


@pytest.mark.parametrize("back", ["u = Unsqueeze(sd, zeroth)", "u = Reshape(sd, row)"])
def test_statistics_that_come_back_along_another_axis_are_no_norm(back: str) -> None:
    lines = [
        "sq = Pow(x, two)", "v0 = ReduceMean <axes = [-1], keepdims = 0> (sq)", "v1 = Add(v0, eps)", DEVIATION, back,
        "y = Div(x, u)",
    ]  # fmt: skip
    held = {"zeroth": np.array([0]), "row": np.array([1, 4, 4])}
    assert not proven_fold(decomposed("float[4, 4, 4] x", lines, held)).decisions


@pytest.mark.parametrize("opset", [16, 17])
@pytest.mark.parametrize("form", ["torch", "tensorflow", "moments"])
def test_what_stands_before_a_norm_may_go(form: str, opset: int) -> None:
    """The norm then reads another value than when it was found."""
    moved = [line.replace("(x", "(h").replace("x)", "h)").replace("xh", "xx") for line in FORMS[form]]
    lines = ["[bn] h = Mul(a, k9)", *moved, "[product] z = MatMul(y, w)", "o = Add(z, cc)"]
    lines = ["a = MatMul(x, w2)", *(line.replace("(hh)", "(xx)") for line in lines)]
    held = {**PRODUCT, "k9": array(8, seed=9), "w2": array(8, 8, seed=5, low=0.05, high=0.3)}
    folded = proven_fold(decomposed(TOKENS, lines, held, opset=opset, outputs="float[2, 5, 6] o"))
    assert folded.decisions["bn"].outcome == "folded"
    assert folded.operators.count("LayerNormalization") == (opset == 17)
    assert {"product"} <= {node for decision in folded.decisions.values() for node in decision.into}


def test_a_scale_that_takes_that_of_a_norm_is_asked_in_its_turn() -> None:
    lines = [*RMS, "n = Div(x, sd)", "[norm] s1 = Mul(n, g)", "s2 = Mul(s1, k)", "r = Relu(s2)", "y = MatMul(r, w)"]
    held = {"k": np.abs(array(8)), "g": np.abs(array(8)), "w": PRODUCT["w"]}
    folded = proven_fold(decomposed(TOKENS, lines, held, opset=22))
    assert folded.operators[-3:] == ["Div", "Relu", "MatMul"]


def grouped(back: Sequence[int], tail: list[str], shape: Sequence[int] = (0, 2, -1)) -> Folded:
    lines = [
        "r = Reshape(x, groups)",
        "[norm] i = InstanceNormalization(r, ones, zeros)",
        "n = Reshape(i, back)",
        *tail,
    ]
    held = {
        "groups": np.array(shape), "back": np.array(back), "ones": np.ones(2, "f"), "zeros": np.zeros(2, "f"),
        "k": array(4, 1, 1), "j": array(4, 1, 1, seed=3), "u": array(3, 4, 1, 1), "u3": array(3, 4, 3, 3),
    }  # fmt: skip
    return proven_fold(decomposed(IMAGE, lines, held))


@pytest.mark.parametrize("shape", [(0, 2, -1), (2, 2, -1), (-1, 2, 60)])
def test_the_tail_of_a_group_norm_goes_into_its_consumer(shape: tuple[int, ...]) -> None:
    folded = grouped((2, 4, 5, 6), ["s1 = Mul(n, k)", "s2 = Add(s1, j)", "[conv] y = Conv(s2, u)"], shape)
    assert folded.operators == ["Reshape", "InstanceNormalization", "Reshape", "Conv"]
    assert folded.decision.outcome == "part-folded"
    assert folded.decision.into == ("conv",)


def test_the_tail_of_a_group_norm_stays_before_an_activation() -> None:
    folded = grouped((2, 4, 5, 6), ["s1 = Mul(n, k)", "s2 = Add(s1, j)", "t = Sigmoid(s2)", "y = Conv(t, u)"])
    assert folded.decision.outcome == "kept"
    assert {"fixed-statistics", "linear-consumer"} <= folded.refused


MICROSOFT = '"com.microsoft" : 1'
HIDDEN = {"g": array(8), "b": array(8, seed=2), "w": array(8, 6), "k": array(8, seed=4)}


def skip_layer_norm(*readers: str, bias: str = "") -> onnx.ModelProto:
    """The norm of a sum; onnx's inference does not know the operator."""
    line = f"[norm] n, , , z = com.microsoft.SkipLayerNormalization <epsilon = 0.001> (x, u, g, b{bias})"
    inputs, outputs = f"{TOKENS}, float[2, 5, 8] u", "float[2, 5, 6] y, float[2, 5, 8] z"
    words = " ".join((line, *readers)).replace("(", " ").replace(")", " ").replace(",", " ").split()
    held = {name: values for name, values in (HIDDEN | {"c": array(6)}).items() if name in words}
    return model(inputs, [line, *readers], held, outputs=outputs, imports=MICROSOFT)


@pytest.mark.parametrize("bias", ["", ", k"])
def test_the_tail_of_a_skip_layer_norm_goes_into_its_consumers(bias: str) -> None:
    readers = [
        "[q] q0 = MatMul(n, w)",
        "q1 = Add(q0, c)",
        "[k0] k0 = MatMul(n, w)",
        "k1 = Add(k0, c)",
        "y = Mul(q1, k1)",
    ]
    folded = proven_fold(skip_layer_norm(*readers, bias=bias))
    assert folded.decision.outcome == "part-folded"
    assert {"q", "k0"} <= set(folded.decision.into)
    assert (folded.constant("g") == 1).all()
    assert not folded.constant("b").any()


def test_the_tail_of_a_skip_layer_norm_stays_where_one_reader_cannot_take_it() -> None:
    folded = proven_fold(
        skip_layer_norm("q0 = MatMul(n, w)", "q1 = Add(q0, c)", "s = Sigmoid(n)", "t = MatMul(s, w)", "y = Add(q1, t)")
    )
    assert folded.decision.outcome == "kept"
    assert {"fixed-statistics", "linear-consumer"} <= folded.refused


@pytest.mark.parametrize("bias", ["", ", k"])
def test_the_scale_of_a_skip_rms_norm_goes_into_its_consumer(bias: str) -> None:
    """What follows the scale is a bias of the sum, not of the norm."""
    line = f"[norm] n = com.microsoft.SkipSimplifiedLayerNormalization <epsilon = 0.001> (x, u, g{bias})"
    held = {name: values for name, values in HIDDEN.items() if name != "b" and (name != "k" or bias)}
    source = model(
        f"{TOKENS}, float[2, 5, 8] u", [line, "y = MatMul(n, w)"], held, outputs="float[2, 5, 6] y", imports=MICROSOFT
    )
    folded = proven_fold(source)
    assert folded.decision.outcome == "part-folded"
    assert (folded.constant("g") == 1).all()
    if bias:
        np.testing.assert_array_equal(folded.constant("k"), HIDDEN["k"])


def test_the_tail_of_an_embedding_norm_goes_into_its_consumer() -> None:
    line = '[norm] n, m = com.microsoft.EmbedLayerNormalization <epsilon = 0.001> (ids, "", we, pe, "", g, b)'
    lines = ["i = Greater(x, zero)", "ids = Cast <to = 6> (i)", line, "h = MatMul(n, w)", "y = Add(h, c)"]
    held = HIDDEN | {"zero": np.float32(0), "we": array(9, 8), "pe": array(5, 8), "c": array(6)}
    del held["k"]
    source = model("float[2, 5] x", lines, held, outputs="float[2, 5, 6] y", imports=MICROSOFT)
    folded = proven_fold(source)
    assert folded.decision.outcome == "part-folded"
    assert (folded.constant("g") == 1).all()


@pytest.mark.parametrize("last", [0, 1])
def test_the_tail_of_a_group_norm_with_channels_anywhere(last: int) -> None:
    """No processor kernel runs it, so that it is looked at, not run."""
    perm, shape = ("[0, 1, 2, 3]", "2, 4, 5, 6") if not last else ("[0, 3, 1, 2]", "2, 5, 6, 4")
    lines = [
        f"[norm] n = com.microsoft.GroupNorm <groups = 2, activation = 0, channels_last = {last}> (x, g4, b4)",
        f"t = Transpose <perm = {perm}> (n)", "y = Conv(t, u)",
    ]  # fmt: skip
    held = {"g4": array(4), "b4": array(4, seed=1), "u": array(3, 4, 1, 1)}
    folded = only_fold(model(f"float[{shape}] x", lines, held, outputs="float[2, 3, 5, 6] y", imports=MICROSOFT))
    assert folded.decision.outcome == "part-folded"
    assert (folded.constant("g4") == 1).all()
    assert not folded.constant("b4").any()
    np.testing.assert_allclose(folded.constant("u"), held["u"] * held["g4"][:, None, None], rtol=1e-6)


def test_the_tail_of_a_group_norm_of_a_sum_does_not_concern_the_sum() -> None:
    lines = [
        "[norm] n, z = com.microsoft.SkipGroupNorm <groups = 2, activation = 0> (x, g4, b4, p)",
        "h = MatMul(n, u)", "y = Add(h, c)",
    ]  # fmt: skip
    held = {"g4": array(4), "b4": array(4, seed=1), "u": array(4, 3), "c": array(3)}
    inputs, outputs = "float[2, 5, 6, 4] x, float[2, 5, 6, 4] p", "float[2, 5, 6, 3] y, float[2, 5, 6, 4] z"
    folded = only_fold(model(inputs, lines, held, outputs=outputs, imports=MICROSOFT))
    assert folded.decision.outcome == "part-folded"
    assert (folded.constant("g4") == 1).all()
    np.testing.assert_allclose(folded.constant("u"), held["u"] * held["g4"][:, None], rtol=1e-6)


@pytest.mark.parametrize("activation", ["", "BiasGelu"])
def test_shapes_behind_norms_of_the_runtime(activation: str) -> None:
    """Two norms in a row: what follows them is known although nothing states it."""
    lines = ["[first] n, , , z = com.microsoft.SkipLayerNormalization <epsilon = 0.001> (x, u, g, b)"]
    lines += [f"a = com.microsoft.{activation}(n, k)"] if activation else ["a = Sigmoid(n)"]
    lines += [
        "[second] m = com.microsoft.SkipSimplifiedLayerNormalization <epsilon = 0.001> (a, z, g)",
        "t = Transpose <perm = [0, 2, 1]> (m)", "[conv] c = Conv(t, w)", "r = Flatten(c)", "y = Sigmoid(r)",
    ]  # fmt: skip
    held = {"g": array(8), "b": array(8, seed=2), "w": array(3, 8, 1)} | ({"k": array(8)} if activation else {})
    inputs = f"{TOKENS}, float[2, 5, 8] u"
    folded = proven_fold(model(inputs, lines, held, outputs="float[2, 15] y", imports=MICROSOFT))
    assert folded.decisions["second"].into == ("conv",)
    assert {"fixed-statistics", "linear-consumer"} <= {r.premise for r in folded.decisions["first"].refused_by}


def test_shapes_of_other_operators_of_the_runtime() -> None:
    lines = [
        "i = Greater(ids, zero)", "k = Cast <to = 6> (i)",
        "n, m, s = com.microsoft.EmbedLayerNormalization (k, \"\", we, pe, \"\", g, b)",
        "h = com.microsoft.BiasSplitGelu(s, b)", "q = com.microsoft.QuickGelu(h)", "y = Add(n, s)", "z = Sigmoid(q)",
    ]  # fmt: skip
    held = {"we": array(9, 8), "pe": array(5, 8), "g": array(8), "b": array(8), "zero": np.float32(0)}
    source = model("float[2, 5] ids", lines, held, outputs="float[] y, float[] z", imports=MICROSOFT)
    for opset in (17, 18):
        source.opset_import[0].version = opset
        graph = OnnxGraph(ir.from_proto(source), CHECKER.infer)
        shapes = {output.name: graph.shape(output) for node in graph.nodes() for output in node.outputs}
        assert {shapes["n"], shapes["s"], shapes["y"]} == {(2, 5, 8)}
        assert {shapes["h"], shapes["q"], shapes["z"]} == {(2, 5, 4)}


def test_a_group_norm_that_ends_in_an_activation_keeps_its_tail() -> None:
    lines = ["[norm] n = com.microsoft.GroupNorm <groups = 2, activation = 1> (x, g4, b4)", "y = MatMul(n, u)"]
    held = {"g4": array(4), "b4": array(4, seed=1), "u": array(4, 3)}
    folded = only_fold(model("float[2, 5, 6, 4] x", lines, held, outputs="float[2, 5, 6, 3] y", imports=MICROSOFT))
    assert folded.decision.outcome == "kept"
    assert folded.refused == {"fixed-statistics", "linear-consumer"}
