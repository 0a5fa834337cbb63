"""What a result changed is compared alone where the whole cannot be run: text, sequences, operators nobody knows."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

import normfold
from normfold.errors import NormfoldError
from normfold.proof.parts import changed_part

CONSTANTS = "<float[3] s={2,3,0.5}, float[3] b={1,-1,2}, float[3] m={0.5,0.25,1}, float[3] v={1,4,0.25}"
WEIGHT = "float[3,3,1,1] w={1,0.5,0, 0,1,0.25, 2,0,1}>"
HEAD = '<ir_version: 9, opset_import: ["": 17, "ai.onnx.ml": 4, "nobody": 1]>'

TEXT = f"""{HEAD}
m (string[N] words, float[1,3,4,4] x) => (string[N] other, float[1,3,4,4] y) {CONSTANTS}, {WEIGHT} {{
 other = StringNormalizer<case_change_action = "UPPER">(words)
 c = Conv(x, w)
 y = BatchNormalization(c, s, b, m, v)
}}"""
TOKENS = f"""{HEAD}
m (string[N] words) => (float[N,3] y) {CONSTANTS},
 float[4,3] t={{1,2,3,4,5,6,7,8,9,1,2,3}}, float[3,3] k={{1,0.5,0,0,1,0.25,2,0,1}}> {{
 ids = ai.onnx.ml.LabelEncoder<keys_strings = ["a", "b"], values_int64s = [1, 2]>(words)
 e = Gather(t, ids)
 r = Relu(e)
 c = MatMul(r, k)
 y = BatchNormalization(c, s, b, m, v)
}}"""
UNKNOWN = f"""{HEAD}
m (float[1,3,4,4] x) => (float[1,3,4,4] y) {CONSTANTS}, float[1,3,4,4] u, {WEIGHT} {{
 r = Relu(x)
 u = nobody.Knows(r)
 a = Add(u, r)
 c = Conv(r, w)
 n = BatchNormalization(c, s, b, m, v)
 z = Relu(n)
 y = Add(z, a)
}}"""
SEQUENCE = f"""{HEAD}
m (seq(float[1,3,4,4]) many, int64 at) => (float[1,3,4,4] y) {CONSTANTS}, {WEIGHT} {{
 x = SequenceAt(many, at)
 c = Conv(x, w)
 y = BatchNormalization(c, s, b, m, v)
}}"""
BRANCH = f"""{HEAD}
m (string[N] words, float[1,3,4,4] x, bool which) => (float[1,3,4,4] y) {CONSTANTS}, {WEIGHT} {{
 ids = ai.onnx.ml.LabelEncoder<keys_strings = ["a"], values_floats = [1.5], default_float = 0.5>(words)
 f = ReduceMax<keepdims = 0>(ids)
 h = Add(x, f)
 y = If (which) <
  then_branch = then () => (float[1,3,4,4] p) {{ c = Conv(h, w)  p = BatchNormalization(c, s, b, m, v) }},
  else_branch = other () => (float[1,3,4,4] q) {{ q = Identity(h) }}
 >
}}"""


def model(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(text)


def spoilt(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The folded model with one number of its first convolution or product off by a thousandth."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for tensor in copy.graph.initializer:
        array = numpy_helper.to_array(tensor).copy()
        if array.ndim > 1:
            array.reshape(-1)[0] *= 1.001
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return copy


@pytest.mark.parametrize(
    "text", [TEXT, TOKENS, UNKNOWN, SEQUENCE, BRANCH], ids=["text", "tokens", "unknown", "sequence", "if"]
)
def test_a_part_is_proven_where_the_whole_cannot_be_run(text: str) -> None:
    source = model(text)
    result = normfold.fold(source)
    assert [decision.outcome for decision in result.decisions] == ["folded"]
    assert result.verification.status == "equivalent"
    assert result.verification.max_rel is not None
    assert result.verification.inputs
    assert "only what was changed was compared" in result.verification.because


@pytest.mark.parametrize("text", [TEXT, TOKENS, UNKNOWN, SEQUENCE], ids=["text", "tokens", "unknown", "sequence"])
def test_a_wrong_part_differs(text: str) -> None:
    source = model(text)
    folded = normfold.fold(source).model
    assert normfold.verify(source, folded).verification.status == "equivalent"
    assert normfold.verify(source, spoilt(folded)).verification.status == "different"


def test_what_is_behind_the_unknown_is_no_input_of_the_part() -> None:
    result = normfold.fold(model(TOKENS))
    assert {probe.name for probe in result.verification.inputs} == {"r"}


def test_a_model_that_nothing_is_done_to_needs_no_inputs() -> None:
    text = f"""{HEAD}
m (string[N] words) => (string[N] other) {{ other = StringNormalizer<case_change_action = "UPPER">(words) }}"""
    result = normfold.fold(model(text))
    assert result.verification.because == "nothing was changed"
    proof = normfold.verify(model(text), model(text)).verification
    assert (proof.status, proof.because) == ("equivalent", "no output depends on what was changed")


def test_a_value_of_no_known_rank_before_the_change_leaves_it_unproven() -> None:
    text = f"""{HEAD}
m (float[1,3,4,4] x) => (float[1,3,4,4] y) {CONSTANTS}, {WEIGHT} {{
 u = nobody.Knows(x)
 c = Conv(u, w)
 y = BatchNormalization(c, s, b, m, v)
}}"""
    with pytest.raises(NormfoldError, match=r"nobody|Knows") as raised:
        normfold.fold(model(text))
    assert raised.value.code == "unverified"


def cut(a: str, b: str) -> tuple[list[str], list[str]] | None:
    part = changed_part(ir.from_proto(model(a)), ir.from_proto(model(b)))
    if part is None:
        return None
    return [str(value.name) for value in part[0].graph.inputs], [str(value.name) for value in part[0].graph.outputs]


def test_equal_models_have_no_part_whatever_their_values_are_called() -> None:
    one = "m (float[2] x) => (float[2] y) <float[2] k={1,2}> { a = Mul(x, k)  i = Identity(a)  y = Exp(i) }"
    other = "m (float[2] x) => (float[2] y) { c = Constant<value=float[2]{1,2}>()  b = Mul(x, c)  y = Exp(b) }"
    assert cut(HEAD + one, HEAD + other) == ([], [])


@pytest.mark.parametrize(
    "other",
    [
        "m (float[2] x) => (float[2] y, float[2] z) { z = Exp(x)  y = Relu(x) }",
        "m (float[2] x) => (float[2] z, float[2] y) { z = Relu(x)  y = Exp(x) }",
    ],
    ids=["changed", "swapped"],
)
def test_outputs_are_compared_by_position(other: str) -> None:
    one = "m (float[2] x) => (float[2] y, float[2] z) { z = Relu(x)  y = Exp(x) }"
    found = cut(HEAD + one, HEAD + other)
    assert found is not None
    assert found[0] == ["x"]
    assert set(found[1]) == {"y", "z"}


def test_other_draws_and_other_attributes_are_not_alike() -> None:
    one = "m (float[2] x) => (float[2] y) { r = RandomNormalLike(x)  e = Exp(r)  y = Add(e, x) }"
    renamed = one.replace("r =", "other =").replace("(r)", "(other)")
    assert cut(HEAD + one, HEAD + one) == ([], [])
    assert cut(HEAD + one, HEAD + renamed) != ([], [])
    leaky = "m (float[2] x) => (float[2] y) { y = LeakyRelu<alpha=0.5>(x) }"
    assert cut(HEAD + leaky, HEAD + leaky.replace("0.5", "0.25")) == (["x"], ["y"])


def test_bodies_and_constants_count() -> None:
    one = """m (float[2] x, bool c) => (float[2] y) {
 y = If(c) <then_branch = t () => (float[2] p) { p = Exp(x) }, else_branch = e () => (float[2] q) { q = Relu(x) }>
}"""
    assert cut(HEAD + one, HEAD + one) == ([], [])
    assert cut(HEAD + one, HEAD + one.replace("Exp", "Abs")) == (["x", "c"], ["y"])
    held = "m (float[2] x) => (float[2] y) <float[2] k={1,2}> { y = Mul(x, k) }"
    assert cut(HEAD + held, HEAD + held.replace("{1,2}", "{1,3}")) == (["x"], ["y"])


def test_the_parts_compute_what_the_models_do() -> None:
    source = model(UNKNOWN)
    part = changed_part(ir.from_proto(source), ir.from_proto(normfold.fold(source, verify=False).model))
    assert part is not None
    from onnx.reference import ReferenceEvaluator

    rng = np.random.default_rng(0)
    feeds = {str(value.name): rng.standard_normal((1, 3, 4, 4)).astype(np.float32) for value in part[0].graph.inputs}
    ours, theirs = (ReferenceEvaluator(ir.to_proto(model)).run(None, feeds)[0] for model in part)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    assert set(feeds) == {"r", "a"}
