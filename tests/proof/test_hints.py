"""What the graph says about its inputs: values that operators accept, and sizes that follow from constants."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import normfold
from normfold.models.data import UserInputs
from normfold.models.onnxfile import from_proto
from normfold.models.source import runnable
from normfold.proof.comparison import Comparison, Setup
from normfold.proof.files import about
from normfold.proof.probes import KINDS, input_specs, layouts, make_feed
from normfold.runtime import Evaluator

HEAD = '<ir_version: 8, opset_import: ["": 17]>\n'

BODIES = {
    "pads": "(float[1,3,4,4] x, int64[8] k) => (float[A,B,C,D] y) { y = Pad(x, k) }",
    "reflected pads": '(float[1,3,4,4] x, int64[8] k) => (float[A,B,C,D] y) { y = Pad<mode="reflect">(x, k) }',
    "a shape": "(float[2,3,4] x, int64[2] k) => (float[A,B] y) { y = Reshape(x, k) }",
    "a shape of a cast": "(float[2,3,4] x, int32[3] k) => (float[A,B,C] y) { c = Cast<to=7>(k)  y = Reshape(x, c) }",
    "sizes to expand to": "(float[2,1,4] x, int64[3] k) => (float[A,B,C] y) { y = Expand(x, k) }",
    "repeats": "(float[2,3] x, int64[2] k) => (float[A,B] y) { y = Tile(x, k) }",
    "axes": "(float[2,3,4] x, int64[2] k) => (float[A] y) { s = ReduceSum<keepdims=0>(x, k)  y = Relu(s) }",
    "axes to drop": "(float[2,1,4,1] x, int64[2] k) => (float[A,B] y) { y = Squeeze(x, k) }",
    "axes to make": "(float[2,3] x, int64[2] k) => (float[A,B,C,D] y) { y = Unsqueeze(x, k) }",
    "starts and ends": "(float[5,6] x, int64[2] a, int64[2] b) => (float[A,B] y) { y = Slice(x, a, b) }",
    "parts": "(float[6,4] x, int64[2] k) => (float[A,4] y, float[B,4] z) { y, z = Split<axis=0>(x, k) }",
    "k": "(float[2,3] x, int64[1] k) => (float[A,B] y, int64[A,B] i) { y, i = TopK(x, k) }",
    "an index": "(float[2,3] x, int64[7] i) => (float[7,3] y) { y = Gather(x, i) }",
    "an index into a table": "(int64[N,T] i) => (float[N,T,2] y) <float[3,2] t={1,2,3,4,5,6}> { y = Gather(t, i) }",
    "an index into another input": "(float[N,L] x, int64[N,4] i) => (float[N,4] y)"
    " { y = GatherElements<axis=1>(x, i) }",
    "a length": "(float c, int64 n) => (float[A] y) { z = Constant<value=int64 {0}>()  o = Constant<value=int64 {1}>()"
    "  r = Range(z, n, o)  f = Cast<to=1>(r)  y = Mul(f, c) }",
    "channels": "(float[N,C,H,W] x) => (float[N,2,A,B] y) <float[2,5,1,1] w={1,2,3,4,5,6,7,8,9,1}> { y = Conv(x, w) }",
    "channels behind a transposition": "(float[N,H,W,C] x) => (float[N,2,A,B] y)"
    " <float[2,5,1,1] w={1,2,3,4,5,6,7,8,9,1}> { r = Relu(x)  t = Transpose<perm=[0,3,1,2]>(r)  y = Conv(t, w) }",
    "features": "(float[N,T,F] x) => (float[N,T,2] y) <float[5,2] w={1,2,3,4,5,6,7,8,9,1}> { y = MatMul(x, w) }",
    "a product of two": "(float[N,K] x, float[K2,M] z) => (float[N,M] y) { y = MatMul(x, z) }",
    "a state": "(float[T,N,1] x, float[D,M,H] h, int32[M2] n) => (float[T,D,N,1] y)"
    " <float[1,4,1] w={1,1,1,1}, float[1,4,1] r={1,1,1,1}> { y = LSTM<hidden_size=1>(x, w, r, "
    ", n, h) }",
    "a sum of lengths": '(float[N,p] a, float[N,q] b, float[N,"p + q"] m) => (float[N,R] y)'
    " { c = Concat<axis=1>(a, b)  y = Add(c, m) }",
    "a divisor": "(int64[4] a, int64[4] b) => (int64[4] y) { y = Div(a, b) }",
    "many open dimensions": "(float[A,B,C,D,E,F,G] x) => (float[A,B,C,D,E,F,G] y) { y = Relu(x) }",
    "negative sizes": "(float[-1,3,-1,-1] x) => (float[-1,3,-1,-1] y) { y = Relu(x) }",
    "no known size": "(float[?,?,?,?,?,?] x) => (float[?,?,?,?,?,?] y) { y = Relu(x) }",
}


def model(body: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(f"{HEAD}m {body}")


@pytest.fixture(scope="module")
def evaluator():
    with Evaluator(time_limit=60, threads=1) as held:
        yield held


@pytest.mark.parametrize("case", BODIES)
def test_the_first_inputs_made_fit(case: str, evaluator: Evaluator) -> None:
    proto = model(BODIES[case])
    source = from_proto(proto)
    setup = about(source, Setup(()))
    layout = next(layouts(setup.inputs, UserInputs()))
    feed = make_feed(setup.inputs, UserInputs(), layout, KINDS[0], 0)
    comparison = Comparison(evaluator, setup)
    with runnable(source) as file:
        comparison.begin(file)
        proof = comparison.finish(file)
    assert proof.status == "equivalent", proof.because
    assert {probe.name: probe.shape for probe in proof.inputs[: len(feed.probes)]} == {
        probe.name: probe.shape for probe in feed.probes
    }


SWITCHED = (
    "(float[N,L] x, float[2,?,4] state, int64 rate) => (float[A,B] y, float[2,C,4] z)"
    " { high = Constant<value=int64 {16000}>()  c = Equal(rate, high)"
    " y = If(c) <then_branch = t () => (float[A,B] u) { u = Relu(x) },"
    " else_branch = e () => (float[A,B] v) { v = Neg(x) }>"
    " n = Shape<start=0,end=1>(x)  m = Shape<start=1,end=2>(state)  k = Equal(n, m)"
    " two = Constant<value=int64[1] {2}>()  h = Constant<value=int64[1] {4}>()  s = Concat<axis=0>(two, n, h)"
    " z = Reshape(state, s) }"
)


def test_a_setting_is_what_it_is_compared_with_and_something_else_in_turn(evaluator: Evaluator) -> None:
    """A recogniser of voice takes one of two networks by the rate of its samples: both are proven."""
    source = from_proto(model(SWITCHED))
    setup = about(source, Setup(()))
    layout = next(layouts(setup.inputs, UserInputs()))
    fed = [make_feed(setup.inputs, UserInputs(), layout, kind, 0).arrays["rate"] for kind in KINDS[:3]]
    assert [int(rate) for rate in fed] == [16000, 15999, 16000]
    for branch, wrong in (("Relu", "Abs"), ("Neg", "Abs")):
        other = from_proto(model(SWITCHED.replace(branch, wrong)))
        comparison = Comparison(evaluator, setup)
        with runnable(source) as before, runnable(other) as after:
            comparison.begin(before)
            assert comparison.finish(after).status == "different"


def test_a_mask_that_is_compared_is_no_setting() -> None:
    body = "(int64[N,T] i) => (bool[N,T] y) { p = Constant<value=int64 {0}>()  y = Equal(i, p) }"
    (spec,) = about(from_proto(model(body)), Setup(())).inputs
    assert spec.role is None


def test_a_state_has_the_batch_of_the_sequence_and_else_a_length_of_its_own() -> None:
    specs = about(from_proto(model(SWITCHED)), Setup(())).inputs
    tried = [layout.shapes for layout in layouts(specs, UserInputs())]
    assert tried[0] == {"x": (2, 16), "state": (2, 2, 4), "rate": ()}
    assert tried[1] == {"x": (2, 16), "state": (2, 16, 4), "rate": ()}


def test_equal_seeds_make_equal_inputs() -> None:
    specs = input_specs(from_proto(model(BODIES["an index into another input"])))
    layout = next(layouts(specs, UserInputs()))
    first, again, other = (make_feed(specs, UserInputs(), layout, KINDS[0], seed).arrays for seed in (0, 0, 1))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["i"], other["i"])
    assert 0 <= first["i"].min() <= first["i"].max() < first["x"].shape[1]


def test_many_open_dimensions_stay_small() -> None:
    for body in ("many open dimensions", "no known size"):
        specs = input_specs(from_proto(model(BODIES[body])))
        assert all(np.prod(layout.shapes["x"]) <= 1 << 24 for layout in layouts(specs, UserInputs()))


def test_an_input_that_is_too_large_is_not_made(evaluator: Evaluator) -> None:
    source = from_proto(model("(float[N,100000,100000] x) => (float[N,100000,100000] y) { y = Relu(x) }"))
    comparison = Comparison(evaluator, about(source, Setup(())))
    with runnable(source) as file:
        comparison.begin(file)
        proof = comparison.finish(file)
    assert proof.status == "unavailable"
    assert "too large to be made" in proof.because


def test_what_was_tried_is_said(evaluator: Evaluator) -> None:
    body = (
        """(float[N,L] x) => (float[N,A] y) <int64[2] s={-1,17}, float[1,17] k> { r = Reshape(x, s)  y = Add(r, k) }"""
    )
    body = body.replace("float[1,17] k>", "float k={1}>")
    source = from_proto(model(body))
    comparison = Comparison(evaluator, about(source, Setup(())))
    with runnable(source) as file:
        comparison.begin(file)
        proof = comparison.finish(file)
    assert proof.status == "unavailable"
    for said in ("sizes were guessed for 'x'", "tried: 2x16, 2x8", "--shape x=2x16", "--inputs"):
        assert said in proof.because


def test_a_model_of_negative_sizes_is_folded_and_verified() -> None:
    constants = (
        "<float[3] s={2,3,0.5}, float[3] b={1,-1,2}, float[3] v={1,4,0.25}, float[3,3,1,1] w={1,0,0,0,1,0,2,0,1}>"
    )
    body = f"""(float[-1,3,-1,-1] x) => (float[-1,3,-1,-1] y) {constants} {{
 c = Conv(x, w)
 y = BatchNormalization(c, s, b, b, v)
}}"""
    result = normfold.fold(model(body))
    assert result.verification.status == "equivalent"
    assert [decision.outcome for decision in result.decisions] == ["folded"]
    assert normfold.verify(model(body), result.model).verification.status == "equivalent"
    assert normfold.verify(model(body), result.model, shapes={"x": (1, 3, 5, 7)}).verification.status == "equivalent"
